use etcd_client::{Client, ConnectOptions, Permission};

use super::*;

/// Sets up users. `flannel` may do what Go's daemon does, with the keys that it names and no more.
async fn with_users(arguments: &[&str]) -> Server {
    let server = Server::launch("http", arguments);
    server.ready().await;
    put(&server, "config", "{}").await;
    let mut client = server.client().await;
    client.role_add("root").await.unwrap();
    client.user_add("root", "rootpw", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("flannel").await.unwrap();
    client.role_grant_permission("flannel", Permission::read(format!("{PREFIX}/config"))).await.unwrap();
    let subnets = Permission::read_write(format!("{PREFIX}/subnets")).with_prefix();
    client.role_grant_permission("flannel", subnets).await.unwrap();
    client.user_add("flannel", "s3cret", None).await.unwrap();
    client.user_grant_role("flannel", "flannel").await.unwrap();
    client.user_add("nobody", "s3cret", None).await.unwrap();
    client.auth_enable().await.unwrap();
    server
}

async fn root(server: &Server) -> Client {
    Client::connect([server.url()], Some(ConnectOptions::new().with_user("root", "rootpw"))).await.unwrap()
}

fn login(server: &Server, user: &str, password: &str) -> EtcdOptions {
    EtcdOptions {
        username: Some(user.to_owned()),
        password: Some(password.to_owned()),
        ..options(&server.url())
    }
}

fn subnets(third: u8) -> Subnets {
    Subnets { v4: Some(format!("10.5.{third}.0/24").parse().unwrap()), v6: None }
}

/// Everything that a daemon does.
async fn works(store: &EtcdStore, third: u8) {
    let attrs = LeaseAttrs::default();
    let listing = store.list().await.unwrap();
    let mut watch = store.watch(listing.revision).await.unwrap();
    let guard =
        CreateGuard { config: listing.config.as_ref().unwrap().revision, records: Some(listing.revision) };
    let held = store.create(&subnets(third), &attrs, guard, Some(PATIENCE)).await.unwrap();
    let held = store.renew(&subnets(third), &held).await.unwrap();
    let held = store.update(&subnets(third), &attrs, &held).await.unwrap();
    store.delete(&subnets(third).to_string(), held.revision).await.unwrap();
    let mut kinds = String::new();
    while kinds.len() < 3 {
        let WatchEvent::Changes { changes, .. } = event(&mut watch).await.unwrap() else {
            panic!("outdated")
        };
        kinds.extend(changes.iter().map(|change| match change {
            Change::Put(_) => 'p',
            Change::Delete { .. } => 'd',
            Change::Config(_) => 'c',
            Change::Own(_) => 'o',
        }));
    }
    assert_eq!(kinds, "ppd");
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn a_user_with_the_rights_of_a_go_daemon_suffices() {
    let server = with_users(&[]).await;
    let store = EtcdStore::new(login(&server, "flannel", "s3cret")).unwrap();
    works(&store, 1).await;
    let listing = store.list().await.unwrap();
    let mut watch = store.watch(listing.revision).await.unwrap();
    assert!(
        store.shared.narrow.load(Ordering::Relaxed),
        "the keys between config and subnets are not permitted"
    );
    root(&server).await.put(format!("{PREFIX}/config"), "{ }", None).await.unwrap();
    let seen = event(&mut watch).await.unwrap();
    assert!(
        matches!(&seen, WatchEvent::Changes { changes, .. } if matches!(changes[..], [Change::Config(Some(_))]))
    );
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn refusals_name_the_reason_and_no_secret() {
    let server = with_users(&[]).await;
    let error = async |options| {
        let error = EtcdStore::new(options).unwrap().list().await.unwrap_err();
        assert!(!format!("{error:?} {error}").contains("s3cret"), "{error:?}");
        assert!(!error.is_transient());
        show(&error, &server)
    };
    insta::assert_snapshot!(error(login(&server, "flannel", "wrong")).await, @r#"etcd at http://127.0.0.1:PORT refuses user "flannel" or its password; check --etcd-username and --etcd-password: etcdserver: authentication failed, invalid user ID or password"#);
    insta::assert_snapshot!(error(login(&server, "stranger", "s3cret")).await, @r#"etcd at http://127.0.0.1:PORT refuses user "stranger" or its password; check --etcd-username and --etcd-password: etcdserver: authentication failed, invalid user ID or password"#);
    insta::assert_snapshot!(error(login(&server, "nobody", "s3cret")).await, @r#"etcd at http://127.0.0.1:PORT does not permit user "nobody": listing the leases; grant a role of that user the keys: etcdctl role grant-permission ROLE readwrite --prefix=true /coreos.com/network/"#);
    insta::assert_snapshot!(error(options(&server.url())).await, @r#"etcd at http://127.0.0.1:PORT requires a user; set --etcd-username and --etcd-password, or use a client certificate whose common name is the user: etcdserver: user name is empty"#);
    let nobody = EtcdStore::new(login(&server, "nobody", "s3cret")).unwrap();
    let error = nobody.watch(Revision::new(1)).await.err().unwrap();
    assert!(error.to_string().contains("does not permit user \"nobody\": watching the leases"), "{error:?}");
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn a_token_that_expires_is_renewed() {
    let server = with_users(&["--auth-token-ttl", "1"]).await;
    let store = EtcdStore::new(login(&server, "flannel", "s3cret")).unwrap();
    // A client that never renews tells when tokens of this age have expired.
    let mut witness =
        Client::connect([server.url()], Some(ConnectOptions::new().with_user("flannel", "s3cret")))
            .await
            .unwrap();
    for third in 1..4 {
        witness.refresh_token().await.unwrap();
        let listing = store.list().await.unwrap();
        eventually("tokens have expired", async || {
            // Every use of a token would prolong it, so ask rarely.
            tokio::time::sleep(Duration::from_millis(2500)).await;
            witness.get(format!("{PREFIX}/config"), None).await.is_err()
        })
        .await;
        if third == 2 {
            drop(store.watch(listing.revision).await.unwrap());
        }
        works(&store, third).await;
    }
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn a_change_of_users_does_not_lock_us_out() {
    let server = with_users(&[]).await;
    let store = EtcdStore::new(login(&server, "flannel", "s3cret")).unwrap();
    works(&store, 1).await;
    root(&server).await.user_add("another", "pw", None).await.unwrap();
    works(&store, 2).await;
    root(&server).await.auth_disable().await.unwrap();
    works(&store, 3).await;
    let without = EtcdStore::new(login(&server, "flannel", "s3cret")).unwrap();
    works(&without, 4).await;
    server.client().await.auth_enable().await.unwrap();
    works(&without, 5).await;
    works(&store, 6).await;
}
