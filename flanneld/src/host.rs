//! What flanneld reads and writes on the host beside the kernel's network objects.

pub mod daemons;
pub mod pods;
pub mod sockets;
pub mod subnet_file;
pub mod sysctl;
