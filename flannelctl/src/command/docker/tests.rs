use super::*;
use insta::assert_snapshot;

const SUBNET_ENV: &str =
    "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n";

fn made(flags: &[&str], text: &str, environment: &[(&str, &str)]) -> Result<String, String> {
    let arguments =
        Arguments::try_parse_from([&[NAME][..], flags].concat()).map_err(|error| error.to_string())?;
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let made = options(&arguments, text, &environment.collect());
    made.map(|(_, text)| text).map_err(|error| Failure::of(&error).to_text())
}

/// The cases of the test of the script in Go flannel.
#[test]
fn output_is_that_of_the_script() {
    let shown = |flags: &[&str]| made(flags, SUBNET_ENV, &[]).unwrap();
    let individual = "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=true\"\n\
         DOCKER_OPT_MTU=\"--mtu=1472\"\n";
    let combined = "=\" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472\"\n";
    assert_eq!(shown(&[]), format!("{individual}DOCKER_OPTS{combined}"));
    assert_eq!(shown(&["-ic"]), shown(&[]));
    assert_eq!(shown(&["-i"]), individual);
    assert_eq!(shown(&["-c"]), format!("DOCKER_OPTS{combined}"));
    assert_eq!(shown(&["-k", "CUSTOM_KEY"]), format!("{individual}CUSTOM_KEY{combined}"));
    assert_eq!(shown(&["-c", "-kCUSTOM_KEY", "operand"]), format!("CUSTOM_KEY{combined}"));
    assert_snapshot!(shown(&["-m"]), @r#"
    DOCKER_OPT_BIP="--bip=10.1.74.1/24"
    DOCKER_OPT_MTU="--mtu=1472"
    DOCKER_OPTS=" --bip=10.1.74.1/24 --mtu=1472"
    "#);
    let masquerading = SUBNET_ENV.replace("IPMASQ=false", "IPMASQ=true");
    assert!(made(&[], &masquerading, &[]).unwrap().contains("--ip-masq=false"));
}

#[test]
fn options_of_the_environment_are_kept() {
    let environment =
        [("DOCKER_OPT_LOG", "--log-opt=tag=\"$x\""), ("DOCKER_OPTS", "--debug"), ("OTHER", "1")];
    assert_snapshot!(made(&["-m"], SUBNET_ENV, &environment).unwrap(), @r#"
    DOCKER_OPT_BIP="--bip=10.1.74.1/24"
    DOCKER_OPT_LOG="--log-opt=tag=\"\$x\""
    DOCKER_OPT_MTU="--mtu=1472"
    DOCKER_OPTS="--debug  --bip=10.1.74.1/24 --log-opt=tag=\"\$x\" --mtu=1472"
    "#);
    let environment = [("DOCKER_OPT_BIP", "--bip=10.9.9.1/24"), ("FLANNEL_SUBNET", "10.9.8.1/24")];
    assert_eq!(made(&["-ci"], SUBNET_ENV, &environment), made(&[], SUBNET_ENV, &[]));
}

#[test]
fn incomplete_files_are_rejected() {
    for (text, expected) in [
        ("", "contains no FLANNEL_SUBNET"),
        ("FLANNEL_IPV6_SUBNET=fd00::1/64\nFLANNEL_MTU=1450", "contains no FLANNEL_SUBNET"),
        ("FLANNEL_SUBNET=fd00::1/64", "is fd00::1/64, not an IPv4 subnet"),
        ("FLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=many", "FLANNEL_MTU in /run/flannel/subnet.env is many"),
        ("FLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_IPMASQ=yes", "is yes, not true or false"),
    ] {
        let error = made(&[], text, &[]).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    assert!(made(&["-k", "A B"], SUBNET_ENV, &[]).is_err());
    assert!(made(&["-x"], SUBNET_ENV, &[]).is_err());
    // As in the script, the value does not matter if it is not used.
    made(&["-m"], "FLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_IPMASQ=yes", &[]).unwrap();
}
