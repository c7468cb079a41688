use super::*;

fn attachment(id: &str, ifname: &str) -> Attachment {
    Attachment { container_id: id.to_owned(), ifname: ifname.to_owned() }
}

#[test]
fn holders_of_all_times() {
    for (text, holder) in [
        ("a\r\neth0", Holder::Attachment(attachment("a", "eth0"))),
        ("a\r\neth0\n", Holder::Attachment(attachment("a", "eth0"))),
        ("a\n", Holder::Container("a".to_owned())),
        ("a\neth0", Holder::Container("a\neth0".to_owned())),
        (" \n", Holder::Nobody),
    ] {
        assert_eq!(Holder::parse(text), holder, "{text:?}");
    }
}

#[test]
fn an_address_is_abandoned_only_on_proof() {
    let minutes = |count: u64| Some(Duration::from_secs(60 * count));
    let full = Holder::Attachment(attachment("a", "eth0"));
    let old = Holder::Container("a".to_owned());
    let before_boot =
        Evidence { owner_gone: None, age: minutes(100), uptime: minutes(50), remembered: false };
    for (holder, evidence, expected) in [
        (&full, Evidence { owner_gone: Some(true), ..before_boot }, Use::Abandoned),
        (&full, Evidence { owner_gone: Some(false), ..before_boot }, Use::Alive),
        (&full, Evidence { owner_gone: Some(true), age: None, ..before_boot }, Use::Unknown),
        (&full, before_boot, Use::Abandoned),
        (&full, Evidence { remembered: true, ..before_boot }, Use::Alive),
        (&full, Evidence { age: minutes(40), ..before_boot }, Use::Unknown),
        (&full, Evidence { uptime: None, ..before_boot }, Use::Unknown),
        (&old, before_boot, Use::Unknown),
        (&Holder::Nobody, before_boot, Use::Abandoned),
        (&Holder::Nobody, Evidence { age: minutes(0), ..before_boot }, Use::Unknown),
    ] {
        assert_eq!(Use::of(holder, &evidence), expected, "{holder:?} {evidence:?}");
    }
}
