//! Names and paths of the CNI plugin that other programs of flannel look for.

/// The bridge of the pods, unless the config names another one.
pub const BRIDGE: &str = "cni0";
/// Directory of the delegate configs that the plugin saves, unless the config names another one.
pub const SAVED_CONFIGS: &str = "/var/lib/cni/flannel";
