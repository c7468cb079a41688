{{/* Labels of every object. */}}
{{- define "flannel.labels" -}}
{{- $own := dict
  "k8s-app" "flannel"
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version)
  "app.kubernetes.io/name" .Chart.Name
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service -}}
{{- merge $own (.Values.global.commonLabels | default dict) | toYaml -}}
{{- end -}}

{{/* Metadata of an object: the name in "name", further labels in "labels", further annotations in "annotations". */}}
{{- define "flannel.metadata" -}}
{{- $labels := merge (dict) (.labels | default dict) (include "flannel.labels" .root | fromYaml) -}}
{{- $annotations := merge (dict) (.annotations | default dict) (.root.Values.global.commonAnnotations | default dict) -}}
name: {{ .name }}
labels: {{- $labels | toYaml | nindent 2 }}
{{- with $annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "flannel.image" -}}
{{- printf "%s:%s" .Values.flannel.image.repository (.Values.flannel.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{- define "flannel.pluginImage" -}}
{{- $image := .Values.flannel.flannel_cni.image -}}
{{- if not $image.repository -}}
{{- include "flannel.image" . -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (required "flannel.flannel_cni.image.tag is required with flannel.flannel_cni.image.repository" $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The network config, net-conf.json. */}}
{{- define "flannel.network" -}}
{{- $values := .Values -}}
{{- if not (or $values.podCidr $values.podCidrv6) -}}
{{- fail "podCidr and podCidrv6 are empty: set the network of the pods in at least one of them" -}}
{{- end -}}
{{- $wireguard := eq (lower $values.flannel.backend) "wireguard" -}}
{{- $keys := dict
  "backendPort" (ternary "ListenPort" "Port" $wireguard)
  "backendPortv6" "ListenPortV6"
  "mtu" "MTU"
  "vni" "VNI"
  "GBP" "GBP"
  "directRouting" "DirectRouting"
  "macPrefix" "MacPrefix"
  "psk" "PSK"
  "tunnelMode" "Mode"
  "keepaliveInterval" "PersistentKeepaliveInterval" -}}
{{- $backend := dict "Type" $values.flannel.backend -}}
{{- range $name, $key := $keys -}}
{{- $value := index $values.flannel $name -}}
{{- if kindIs "float64" $value -}}{{- $value = int64 $value -}}{{- end -}}
{{- /* The upstream chart has 0 for no pre-shared key. */ -}}
{{- $unset := or (kindIs "invalid" $value) (and (eq $name "psk") (has (toString $value) (list "" "0"))) -}}
{{- if not $unset -}}
{{- $_ := set $backend $key $value -}}
{{- end -}}
{{- end -}}
{{- $config := dict "EnableNFTables" $values.flannel.enableNFTables "Backend" $backend -}}
{{- if $values.podCidr -}}
{{- $_ := set $config "Network" $values.podCidr -}}
{{- else -}}
{{- $_ := set $config "EnableIPv4" false -}}
{{- end -}}
{{- if $values.podCidrv6 -}}
{{- $config = merge $config (dict "EnableIPv6" true "IPv6Network" $values.podCidrv6) -}}
{{- end -}}
{{- toPrettyJson $config -}}
{{- end -}}
