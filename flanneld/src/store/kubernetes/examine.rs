//! Examines the cluster for a diagnosis, with the rights that the daemon has.

use flannel_core::kubernetes::{self, Node};
use futures_util::future::{join3, try_join_all};
use serde_json::json;

use super::api::{Call, Content};
use super::error::{RequestError, malformed};
use super::facts::{ClusterFacts, Rule};
use super::options::NodeName;
use super::session::Session;
use crate::error::chain;
use crate::store::error::StoreError;
use crate::store::operation::Operation;

/// Where kubeadm keeps the configuration of kube-proxy, and its key.
const PROXY: (&str, &str) = ("/api/v1/namespaces/kube-system/configmaps/kube-proxy", "config.conf");

pub(super) async fn examine(store: &Session) -> ClusterFacts {
    let options = &store.shared.options;
    let name = store.name().await;
    let node = async {
        match name {
            Ok(name) if !name.is_empty() => store.read(name).await.map_err(|error| chain(&error)),
            Ok(_) => Err("the name of this node is unknown".to_owned()),
            Err(ref error) => Err(chain(error)),
        }
    };
    let (node, missing, proxy): (Result<Option<Node>, String>, _, _) =
        join3(node, missing(store), proxy(store)).await;
    ClusterFacts {
        node,
        name: name.map(str::to_owned).unwrap_or_default(),
        pod: options.pod.clone(),
        prefix: options.prefix.to_string(),
        others: store.with_state(|state| state.others.clone()),
        missing: missing.map_err(|error| chain(&error)),
        sets_available: options.sets_available,
        proxy: proxy.map_err(|error| chain(&error)),
        config_map: options.config_map.to_string(),
    }
}

/// Returns the rules that the identity lacks.
async fn missing(store: &Session) -> Result<Vec<Rule>, StoreError> {
    let namespace = match &store.shared.options.node {
        NodeName::OfPod { namespace, .. } => Some(namespace.as_str()),
        _ => None,
    };
    let rules = [Some(Rule::NODES), Some(Rule::STATUS), namespace.map(|_| Rule::PODS)];
    let asked = rules.into_iter().flatten().map(async |rule| {
        let reviews = rule.verbs.iter().map(|verb| is_allowed(store, rule.resource, verb, namespace));
        let allowed = try_join_all(reviews).await?;
        Ok::<_, StoreError>((!allowed.iter().all(|allowed| *allowed)).then_some(rule))
    });
    Ok(try_join_all(asked).await?.into_iter().flatten().collect())
}

/// Asks whether a request is permitted, which every identity may do.
async fn is_allowed(
    store: &Session,
    resource: &str,
    verb: &str,
    namespace: Option<&str>,
) -> Result<bool, StoreError> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let namespace = namespace.filter(|_| resource == "pods").unwrap_or_default();
    let attributes =
        json!({"verb": verb, "resource": resource, "subresource": subresource, "namespace": namespace});
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".to_owned();
    let call = Call {
        content: Some(Content::New(review.to_string())),
        ..Call::get(Operation::Review, path).in_json()
    };
    let (body, _) = store.shared.api.call(&call).await?;
    kubernetes::json::decode_review(&body)
        .map_err(|error| malformed(&store.shared.api.location(), Operation::Review, &error))
}

/// Returns the configuration of kube-proxy; `None` if it is not in a ConfigMap.
async fn proxy(store: &Session) -> Result<Option<String>, StoreError> {
    let (path, key) = PROXY;
    match store.shared.api.call(&Call::get(Operation::ReadConfig, path.to_owned()).in_json()).await {
        Ok((body, _)) => kubernetes::json::decode_config_map(&body, key)
            .map(|(_, text)| text)
            .map_err(|error| malformed(&store.shared.api.location(), Operation::ReadConfig, &error)),
        Err(RequestError::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
