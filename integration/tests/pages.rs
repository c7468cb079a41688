//! The commands of pages for administrators, run as they are written there, each with its visible effect, on a host where the
//! packages are installed. The others are in `reference.rs` and `packages/`; who follows what, and what nobody does, is
//! in `integration/src/pages/register.rs`.

mod first;
mod migration;
mod node;
