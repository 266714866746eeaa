//! How many connections one address holds. Knows addresses only while they are connected.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, PoisonError, RwLock};

#[derive(Clone)]
pub struct Addresses {
    most: usize,
    held: Arc<RwLock<HashMap<IpAddr, usize>>>,
}

/// One connection's place; given back when dropped.
pub struct Share {
    addresses: Addresses,
    of: IpAddr,
}

impl Addresses {
    pub fn new(most: usize) -> Self {
        Addresses { most, held: Arc::default() }
    }

    /// None: this address holds all that it may.
    pub fn admit(&self, address: IpAddr) -> Option<Share> {
        let of = network(address);
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(of).or_insert(0);
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share { addresses: self.clone(), of })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.addresses.held.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.of);
            }
        }
    }
}

/// Whoever has one address of an IPv6 /64 has all of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) >> 64 << 64)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_fills_its_own_share_only_and_gets_it_back() {
        let addresses = Addresses::new(2);
        let [a, b]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        let first = addresses.admit(a).unwrap();
        let _second = addresses.admit(a).unwrap();
        assert!(addresses.admit(a).is_none());
        assert!(addresses.admit(b).is_some(), "another is not held up");
        drop(first);
        assert!(addresses.admit(a).is_some());
    }

    #[test]
    fn a_whole_ipv6_network_is_one_address() {
        let addresses = Addresses::new(1);
        let [a, b, c]: [IpAddr; 3] = ["2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"].map(|t| t.parse().unwrap());
        let _held = addresses.admit(a).unwrap();
        assert!(addresses.admit(b).is_none());
        assert!(addresses.admit(c).is_some());
        assert!(addresses.held.read().unwrap().len() == 1, "what is given back is forgotten");
    }
}
