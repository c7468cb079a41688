//! Builds the config of the delegate from the network config and `subnet.env`. Compatibility: it is byte for byte the one
//! of Go flannel, which saves it and sends it to the delegate.

use flannel_core::json::{Object, Value};

use crate::error::{CniError, Context};
use crate::netconf::NetConf;
use crate::result::Route;
use crate::subnet_env::SubnetEnv;

/// Go's text for invalid routes.
const ROUTES: &str =
    "failed to assemble Delegate IPAM: failed to read IPAM routes: failed to parse ipam.routes";

/// Returns the config of the delegate for an ADD.
pub(crate) fn netconf(conf: &NetConf, env: &SubnetEnv) -> Result<Object, CniError> {
    if conf.delegate.get("type").is_some_and(|kind| kind.as_str().is_none()) {
        let msg = "'delegate' dictionary, if present, must have (string) 'type' field";
        return Err(CniError::internal(msg));
    }
    for key in ["name", "ipam"] {
        if conf.delegate.get(key).is_some() {
            let msg = format!("'delegate' dictionary must not have '{key}' field, it'll be set by flannel");
            return Err(CniError::internal(msg));
        }
    }
    let routes = user_routes(&conf.ipam).context(|| ROUTES.to_owned())?;
    Ok(assemble(conf, Some(env), routes))
}

/// Returns the config of the delegate for a DEL or GC whose saved config is lost. It never fails. Without `subnet.env` it
/// contains what a deletion needs: any range, because host-local rejects a config without one (it releases by container and
/// interface, whatever the range), and `ipMasq`, so that the delegate looks for rules.
pub(crate) fn netconf_for_cleaning(conf: &NetConf, env: Option<&SubnetEnv>) -> Object {
    let mut conf = conf.clone();
    for section in [&mut conf.delegate, &mut conf.ipam] {
        if section.get("type").is_some_and(|kind| kind.as_str().is_none()) {
            section.remove("type");
        }
    }
    let routes = user_routes(&conf.ipam).unwrap_or_default();
    assemble(&conf, env, routes)
}

fn assemble(conf: &NetConf, env: Option<&SubnetEnv>, routes: Vec<Route>) -> Object {
    let mut netconf = conf.delegate.clone();
    if let Some(runtime_config) = &conf.runtime_config {
        netconf.insert("runtimeConfig", runtime_config.clone());
    }
    netconf.insert("name", conf.name.as_str());
    // Compatibility: a member that is null counts as present and gets no default.
    let mut default = |key: &str, value: Value| {
        if netconf.get(key).is_none() {
            netconf.insert(key, value);
        }
    };
    default("type", "bridge".into());
    default("ipMasq", (!env.is_some_and(|env| env.ip_masq)).into());
    if let Some(env) = env {
        default("mtu", env.mtu.into());
    }
    if netconf.get("type").and_then(Value::as_str) == Some("bridge") && netconf.get("isGateway").is_none() {
        netconf.insert("isGateway", true);
    }
    if !conf.cni_version.is_empty() {
        netconf.insert("cniVersion", conf.cni_version.as_str());
    }
    netconf.insert("ipam", ipam(&conf.ipam, env, routes));
    netconf.sorted()
}

fn ipam(user: &Object, env: Option<&SubnetEnv>, mut routes: Vec<Route>) -> Object {
    let mut ipam = user.clone();
    if ipam.get("type").is_none() {
        ipam.insert("type", "host-local");
    }
    // TEST-NET-1 in place of the unknown subnet.
    let subnets: Vec<String> = env.map_or_else(
        || vec!["192.0.2.0/24".to_owned()],
        |env| env.subnets.iter().map(|(_, subnet)| subnet.to_string()).collect(),
    );
    let range_set = |subnet: String| -> Value {
        let range: Object = [("subnet", subnet)].into_iter().collect();
        vec![range].into()
    };
    ipam.insert("ranges", subnets.into_iter().map(range_set).collect::<Vec<_>>());
    routes.extend(env.iter().flat_map(|env| &env.networks).map(|network| Route::to(*network)));
    ipam.insert("routes", routes.iter().map(Route::to_value).collect::<Vec<_>>());
    ipam
}

/// Parses `ipam.routes`; unknown members of a route are dropped.
fn user_routes(ipam: &Object) -> Result<Vec<Route>, CniError> {
    match ipam.get("routes") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(routes)) => routes
            .iter()
            .enumerate()
            .map(|(at, route)| Route::parse(route, &format!("ipam.routes[{at}]")))
            .collect(),
        Some(other) => Err(other.type_error("ipam.routes", "[]*types.Route").into()),
    }
}

#[cfg(test)]
mod tests;
