use super::*;
use flannel_core::json::Value;

fn parse(members: &str) -> Result<[Option<(u64, u64)>; 2], String> {
    let text = format!(r#"{{"name":"n","type":"bandwidth"{members}}}"#);
    let object = Value::parse(text.as_bytes()).unwrap().as_object().unwrap().clone();
    let config = Config::parse(&object).map_err(|error| error.msg)?;
    Ok([config.ingress, config.egress].map(|limit| limit.map(|limit| (limit.rate, limit.burst))))
}

#[test]
fn the_configs_own_limits_win_entirely() {
    assert_eq!(parse(""), Ok([None, None]));
    assert_eq!(parse(r#","runtimeConfig":{}"#), Ok([None, None]));
    let runtime = r#","runtimeConfig":{"bandwidth":{"IngressRate":1000,"ingressBurst":2000}}"#;
    assert_eq!(parse(runtime), Ok([Some((1000, 2000)), None]));
    let both = format!(r#","egressRate":8,"egressBurst":16{runtime}"#);
    assert_eq!(parse(&both), Ok([None, Some((8, 16))]));
    assert_eq!(parse(r#","runtimeConfig":{"bandwidth":null},"ingressRate":0"#), Ok([None, None]));
}

#[test]
fn errors_name_the_direction_and_the_reason() {
    for (members, text) in [
        (r#","ingressRate":8000"#, "ingress: if rate is set, burst must also be set"),
        (r#","egressBurst":8000"#, "egress: if burst is set, rate must also be set"),
        (r#","ingressRate":8,"ingressBurst":34359738360"#, "ingress: burst cannot be more than 4GB"),
        (
            r#","ingressRate":7,"ingressBurst":9"#,
            "ingress: rate and burst must be at least 8 bits, because the kernel counts bytes",
        ),
        (
            r#","ingressRate":"1M""#,
            "failed to parse network configuration: json: cannot unmarshal string into Go struct field BandwidthEntry.ingressRate of type uint64",
        ),
        (
            r#","ingressRate":-1"#,
            "failed to parse network configuration: json: cannot unmarshal number -1 into Go struct field BandwidthEntry.ingressRate of type uint64",
        ),
        (
            r#","runtimeConfig":{"bandwidth":[]}"#,
            "failed to parse network configuration: json: cannot unmarshal array into Go struct field PluginConf.bandwidth of type object",
        ),
    ] {
        assert_eq!(parse(members), Err(text.to_owned()), "{members}");
    }
}

#[test]
fn numbers_are_those_of_go_and_saturate() {
    let bucket = |rate, burst| Limit { rate, burst }.bucket();
    assert_eq!(bucket(2_000_000, 800_000), TokenBucket { rate: 250_000, limit: 106_250, buffer: 6_250_000 });
    // Runtimes send this for "unlimited": over four seconds of the rate, not a random remainder.
    let unlimited = bucket(1_000_000, u64::from(u32::MAX));
    assert_eq!(unlimited, TokenBucket { rate: 125_000, limit: 536_874_036, buffer: u32::MAX / 64 });
    let most = bucket(u64::MAX, BURST_MAX * 8);
    assert_eq!(most.limit, u32::MAX);
    assert_eq!(bucket(8, BURST_MAX * 8).buffer, u32::MAX / 64);
}
