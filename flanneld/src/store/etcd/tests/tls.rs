use std::fs;
use std::process::Command;
use tempfile::TempDir;

use super::*;

/// Certificates made by openssl(1), valid for a day.
struct Authority {
    directory: TempDir,
}

impl Authority {
    fn new() -> Self {
        let authority =
            Self { directory: tempfile::Builder::new().prefix("flannel-tls-").tempdir().unwrap() };
        let sections = "[req]\ndistinguished_name=dn\n[dn]\n[ca]\nbasicConstraints=critical,CA:TRUE\n\
                        [leaf]\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n\
                        subjectAltName=IP:127.0.0.1\n\
                        [elsewhere]\nbasicConstraints=CA:FALSE\nsubjectAltName=DNS:etcd.example\n";
        fs::write(authority.path("openssl.cnf"), sections).unwrap();
        // A name of its own, as every real authority has.
        let name =
            format!("/CN=authority {}", authority.directory.path().display().to_string().replace('/', " "));
        authority.issue("ca", "ca", &["-subj", &name]);
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Makes NAME.pem and NAME.key, signed by the CA unless it is one.
    fn issue(&self, name: &str, extensions: &str, more: &[&str]) {
        let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
        let mut command = Command::new("openssl");
        command
            .current_dir(self.directory.path())
            .args([
                "req",
                "-x509",
                "-config",
                "openssl.cnf",
                "-extensions",
                extensions,
                "-nodes",
                "-days",
                "1",
            ])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", &format!("/CN={name}")])
            .args(["-keyout", &key, "-out", &certificate])
            .args(more);
        if extensions != "ca" {
            command.args(["-CA", "ca.pem", "-CAkey", "ca.key"]);
        }
        let output = command.output().expect("openssl is installed where this test runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn serve(&self, name: &str, more: &[&str]) -> Server {
        let (certificate, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        let mut arguments =
            vec!["--cert-file", certificate.to_str().unwrap(), "--key-file", key.to_str().unwrap()];
        arguments.extend(more);
        Server::launch("https", &arguments)
    }

    /// Options that trust this authority.
    fn options(&self, server: &Server) -> EtcdOptions {
        EtcdOptions { cafile: Some(self.path("ca.pem")), ..options(&server.url()) }
    }

    fn show(&self, error: &StoreError, server: &Server) -> String {
        show(error, server).replace(self.directory.path().to_str().unwrap(), "CERTS")
    }
}

async fn error_of(options: EtcdOptions) -> StoreError {
    EtcdStore::new(options).unwrap().list().await.unwrap_err()
}

async fn works(options: EtcdOptions) {
    let store = EtcdStore::new(options).unwrap();
    eventually("etcd serves over TLS", async || store.list().await.is_ok()).await;
    let listing = store.list().await.unwrap();
    store.watch(listing.revision).await.unwrap();
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn a_ca_is_enough_and_problems_are_named() {
    let authority = Authority::new();
    authority.issue("server", "leaf", &[]);
    let server = authority.serve("server", &[]);
    works(authority.options(&server)).await;

    let other = Authority::new();
    let wrong_ca = EtcdOptions { cafile: Some(other.path("ca.pem")), ..options(&server.url()) };
    let error = error_of(wrong_ca).await;
    assert!(!error.is_transient());
    let text = other.show(&error, &server);
    insta::assert_snapshot!(text, @r#"no TLS session with etcd at https://127.0.0.1:PORT: its certificate is not signed by a CA in CERTS/ca.pem; set the CA of that server with --etcd-cafile: invalid peer certificate: UnknownIssuer"#);
    let text = show(&error_of(options(&server.url())).await, &server);
    insta::assert_snapshot!(text, @r#"no TLS session with etcd at https://127.0.0.1:PORT: its certificate is not signed by a CA that this system trusts; set the CA of that server with --etcd-cafile: invalid peer certificate: UnknownIssuer"#);

    let plain = EtcdOptions { cafile: None, ..options(&server.url().replace("https", "http")) };
    let error = error_of(plain).await;
    assert!(is_unreachable(&error), "{error:?}");

    let absent = EtcdOptions { cafile: Some(authority.path("absent.pem")), ..options(&server.url()) };
    let text = authority.show(&error_of(absent).await, &server);
    insta::assert_snapshot!(text, @r#"could not use CERTS/absent.pem given as --etcd-cafile; check that it exists, is readable and in PEM format: No such file or directory (os error 2)"#);
    let no_pem = EtcdOptions { cafile: Some(authority.path("openssl.cnf")), ..options(&server.url()) };
    let text = authority.show(&error_of(no_pem).await, &server);
    insta::assert_snapshot!(text, @r#"could not use CERTS/openssl.cnf given as --etcd-cafile; check that it exists, is readable and in PEM format: it holds no PEM block"#);
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    authority.issue("server", "elsewhere", &[]);
    let server = authority.serve("server", &[]);
    eventually("etcd listens", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.is_ok()
    })
    .await;
    let text = authority.show(&error_of(authority.options(&server)).await, &server);
    insta::assert_snapshot!(text, @r#"no TLS session with etcd at https://127.0.0.1:PORT: its certificate is not valid for 127.0.0.1; use a name that is in it, or add 127.0.0.1 to it as subject alternative name: invalid peer certificate: certificate not valid for name "127.0.0.1"; certificate is only valid for DnsName("etcd.example")"#);
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn a_client_certificate_is_shown_where_it_is_wanted() {
    let authority = Authority::new();
    authority.issue("server", "leaf", &[]);
    authority.issue("node", "leaf", &[]);
    let ca = authority.path("ca.pem");
    let server =
        authority.serve("server", &["--client-cert-auth", "--trusted-ca-file", ca.to_str().unwrap()]);
    let with_certificate = EtcdOptions {
        certfile: Some(authority.path("node.pem")),
        keyfile: Some(authority.path("node.key")),
        ..authority.options(&server)
    };
    works(with_certificate.clone()).await;

    // In TLS 1.3 the refusal comes after the handshake, as an alert that may be lost when the connection is closed.
    let error = error_of(authority.options(&server)).await;
    assert!(error.to_string().contains("requires a client certificate (set --etcd-certfile"), "{error}");

    let other = Authority::new();
    other.issue("node", "leaf", &[]);
    let of_another = EtcdOptions {
        certfile: Some(other.path("node.pem")),
        keyfile: Some(other.path("node.key")),
        ..authority.options(&server)
    };
    let error = error_of(of_another.clone()).await;
    assert!(error.to_string().contains("not accept the client certificate of --etcd-certfile"), "{error}");

    let mixed = EtcdOptions { keyfile: Some(authority.path("server.key")), ..with_certificate.clone() };
    let error = error_of(mixed).await;
    assert!(error.to_string().contains("given as --etcd-certfile"), "{error:?}");

    // A renewed certificate is used by the next connection, without a restart.
    let store = EtcdStore::new(of_another).unwrap();
    assert!(store.list().await.is_err());
    fs::copy(authority.path("node.pem"), other.path("node.pem")).unwrap();
    fs::copy(authority.path("node.key"), other.path("node.key")).unwrap();
    store.list().await.unwrap();
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn https_to_a_plain_server_is_named() {
    let authority = Authority::new();
    let server = Server::start().await;
    let tls = EtcdOptions { endpoints: server.url().replace("http", "https"), ..authority.options(&server) };
    let error = error_of(tls).await;
    assert!(error.to_string().contains("does not speak TLS on that port (then use http://)"), "{error}");
}
