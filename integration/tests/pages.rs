//! The commands of pages for administrators, run as they are written there, each with its visible effect, on a host where the
//! packages are installed. The others are in `reference.rs` and `packages/`; who follows what, and what nobody does, is
//! in `integration/src/pages/register.rs`.

#[path = "pages/first.rs"]
mod first;
#[path = "pages/migration.rs"]
mod migration;
#[path = "pages/node.rs"]
mod node;
