//! What the hub holds of one kind, as its watch tells it. Only what is held there is compared with what is here, so
//! what went at the hub during a gap in the watch must not stay. Merges nothing and touches no cluster.

use std::collections::{HashMap, HashSet};

use kube::ResourceExt;
use kube::runtime::watcher::Event;

/// By name.
pub struct Sources<K> {
    held: HashMap<String, K>,
    /// The names of a list that is under way.
    listing: Option<HashSet<String>>,
    listed: bool,
}

impl<K> Default for Sources<K> {
    fn default() -> Self {
        Sources { held: HashMap::new(), listing: None, listed: false }
    }
}

impl<K: ResourceExt + Clone> Sources<K> {
    /// Takes what the watch says; gives what is to be merged.
    pub fn take(&mut self, event: Event<K>) -> Option<K> {
        match event {
            // An earlier list that broke off says nothing.
            Event::Init => self.listing = Some(HashSet::new()),
            Event::InitApply(object) => {
                self.listing.get_or_insert_default().insert(object.name_any());
                return Some(self.hold(object));
            }
            Event::InitDone => {
                let present = self.listing.take().unwrap_or_default();
                self.held.retain(|name, _| present.contains(name));
                self.listed = true;
            }
            Event::Apply(object) => return Some(self.hold(object)),
            Event::Delete(object) => drop(self.held.remove(&object.name_any())),
        }
        None
    }

    fn hold(&mut self, object: K) -> K {
        self.held.insert(object.name_any(), object.clone());
        object
    }

    pub fn all(&self) -> impl Iterator<Item = &K> {
        self.held.values()
    }

    /// Whether the hub is known to hold nothing of this name. Before the first whole list nothing is known.
    pub fn lacks(&self, name: &str) -> bool {
        self.listed && !self.held.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_pipelines::api::policy::TrustRoot;

    fn root(name: &str) -> TrustRoot {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "TrustRoot", "metadata": {"name": name},
            "spec": {"trustedRoot": "{}"}
        }))
        .unwrap()
    }

    #[test]
    fn what_is_not_listed_after_a_gap_is_held_no_more_and_a_list_that_breaks_off_says_nothing() {
        let mut sources = Sources::default();
        let names = |sources: &Sources<TrustRoot>| {
            let mut names: Vec<_> = sources.all().map(ResourceExt::name_any).collect();
            names.sort();
            names.join(" ")
        };
        assert!(!sources.lacks("a"), "nothing is known yet");
        for (event, held, case) in [
            (Event::Init, "", "a list begins"),
            (Event::InitApply(root("a")), "a", "its first page"),
            (Event::InitApply(root("b")), "a b", "its second"),
            (Event::InitDone, "a b", "it is whole"),
            (Event::Apply(root("c")), "a b c", "a new one"),
            (Event::Delete(root("c")), "a b", "which goes"),
            (Event::Init, "a b", "a gap"),
            (Event::InitApply(root("a")), "a b", "the list breaks off here"),
            (Event::Init, "a b", "and begins anew"),
            (Event::InitApply(root("b")), "a b", "until it is whole nothing is gone"),
            (Event::InitDone, "b", "gone during the gap"),
        ] {
            let brings = matches!(event, Event::Apply(_) | Event::InitApply(_));
            assert_eq!(sources.take(event).is_some(), brings, "{case}");
            assert_eq!(names(&sources), held, "{case}");
        }
        assert!(sources.lacks("a") && !sources.lacks("b"));
    }
}
