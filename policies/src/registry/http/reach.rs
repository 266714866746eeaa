//! Which addresses a name may lead to. A policy names registries, and a redirect names anything:
//! neither may make this process speak to the machine it runs on, or to a cloud's metadata service.

use std::net::{IpAddr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// Registries that the policy calls insecure: rigs and air gaps.
    Anywhere,
    /// A registry: private addresses too, since those on the premises have them.
    Registry,
    /// Wherever a registry or its challenge sends us: public addresses alone.
    Public,
}

impl Reach {
    pub const ALL: [Self; 3] = [Self::Anywhere, Self::Registry, Self::Public];

    fn allows(self, address: IpAddr) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Registry => !is_own_or_link_local(address),
            Self::Public => !is_own_or_link_local(address) && !is_private(address),
        }
    }

    /// An address written out is not looked up, so the resolver never sees it.
    pub fn check_literal(self, url: &Url) -> Result<(), String> {
        let address = match url.host() {
            Some(Host::Ipv4(v4)) => IpAddr::V4(v4),
            Some(Host::Ipv6(v6)) => IpAddr::V6(v6),
            Some(Host::Domain(_)) => return Ok(()),
            None => return Err("it names no host".to_owned()),
        };
        if self.allows(address) { Ok(()) } else { Err(refusal(address)) }
    }
}

fn refusal(address: IpAddr) -> String {
    format!(
        "{address} is not an address to fetch from: list the registry under `registries` with `insecure: true` if it is meant"
    )
}

fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn is_own_or_link_local(address: IpAddr) -> bool {
    match canonical(address) {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.octets()[0] == 0
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast(),
    }
}

fn is_private(address: IpAddr) -> bool {
    match canonical(address) {
        // 100.64.0.0/10 is shared address space (RFC 6598), where clouds put services of theirs.
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

impl Resolve for Reach {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = *self;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // One forbidden address condemns the name: which of them is used is not ours to choose.
            if let Some(bad) = found.iter().find(|a| !reach.allows(a.ip())) {
                return Err(refusal(bad.ip()).into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_only_where_they_may() {
        for (address, registry, public) in [
            ("93.184.216.34", true, true),
            ("10.0.0.1", true, false),
            ("192.168.1.1", true, false),
            ("100.64.0.1", true, false),
            ("127.0.0.1", false, false),
            ("169.254.169.254", false, false),
            ("0.0.0.0", false, false),
            ("::1", false, false),
            ("::ffff:127.0.0.1", false, false),
            ("::ffff:169.254.169.254", false, false),
            ("fe80::1", false, false),
            ("fd00::1", true, false),
            ("2606:2800:220:1::1", true, true),
        ] {
            let ip: IpAddr = address.parse().unwrap();
            assert_eq!((Reach::Registry.allows(ip), Reach::Public.allows(ip)), (registry, public), "{address}");
            assert!(Reach::Anywhere.allows(ip));
        }
    }

    #[test]
    fn an_address_written_out_is_checked_too() {
        for url in ["https://127.0.0.1/v2/", "https://[::1]/v2/", "https://2130706433/v2/", "https://0x7f.1/"] {
            assert!(Reach::Registry.check_literal(&Url::parse(url).unwrap()).is_err(), "{url}");
        }
        assert!(Reach::Registry.check_literal(&Url::parse("https://registry.example/").unwrap()).is_ok());
    }
}
