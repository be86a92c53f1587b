//! Whether other machines can reach this one.

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// Whether any network interface other than loopback is up. True if the interfaces cannot be listed.
#[must_use]
pub fn is_reachable() -> bool {
    let Ok(mut interfaces) = getifaddrs() else { return true };
    interfaces.any(|interface| {
        let is_up = interface.flags.contains(InterfaceFlags::IFF_UP);
        let has_address = interface
            .address
            .is_some_and(|address| address.as_sockaddr_in().is_some() || address.as_sockaddr_in6().is_some());
        is_up && has_address && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
    })
}
