//! A stand-in for `DashMap` that the checker sees into: sharded locks as there, and each step on a
//! lock is one where the checker may let another thread go first. Only what the registry uses.

use std::{
    collections::HashMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    ops::{Deref, DerefMut},
    rc::Rc,
};

use shuttle::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Enough for two keys to share one, and for two not to.
const SHARDS: usize = 2;

type Shard<K, V> = RwLock<HashMap<K, V>>;

/// A map whose parts are locked one by one.
pub(crate) struct DashMap<K, V> {
    shards: [Shard<K, V>; SHARDS],
}

impl<K, V> Default for DashMap<K, V> {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::new(HashMap::new())),
        }
    }
}

impl<K, V> fmt::Debug for DashMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DashMap")
    }
}

impl<K: Hash + Eq + Clone, V> DashMap<K, V> {
    fn shard(&self, key: &K) -> &Shard<K, V> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        &self.shards[hasher.finish() as usize % SHARDS]
    }

    pub(crate) fn insert(&self, key: K, value: V) -> Option<V> {
        self.shard(&key).write().unwrap().insert(key, value)
    }

    pub(crate) fn remove(&self, key: &K) -> Option<(K, V)> {
        self.shard(key).write().unwrap().remove_entry(key)
    }

    pub(crate) fn get(&self, key: &K) -> Option<Ref<RwLockReadGuard<'_, HashMap<K, V>>, K>> {
        let shard = self.shard(key).read().unwrap();
        shard.contains_key(key).then(|| Ref {
            shard,
            key: key.clone(),
        })
    }

    pub(crate) fn get_mut(&self, key: &K) -> Option<Ref<RwLockWriteGuard<'_, HashMap<K, V>>, K>> {
        let shard = self.shard(key).write().unwrap();
        shard.contains_key(key).then(|| Ref {
            shard,
            key: key.clone(),
        })
    }

    /// One shard after the other, each locked while it is looked through.
    pub(crate) fn iter(
        &self,
    ) -> impl Iterator<Item = Ref<Rc<RwLockReadGuard<'_, HashMap<K, V>>>, K>> {
        self.shards.iter().flat_map(|shard| {
            let shard = Rc::new(shard.read().unwrap());
            let keys: Vec<K> = shard.keys().cloned().collect();
            keys.into_iter().map(move |key| Ref {
                shard: shard.clone(),
                key,
            })
        })
    }

    pub(crate) fn len(&self) -> usize {
        let lengths = self.shards.iter().map(|shard| shard.read().unwrap().len());
        lengths.sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A value in a locked shard.
pub(crate) struct Ref<S, K> {
    shard: S,
    key: K,
}

impl<K: Hash + Eq, V> Deref for Ref<RwLockReadGuard<'_, HashMap<K, V>>, K> {
    type Target = V;
    fn deref(&self) -> &V {
        &self.shard[&self.key]
    }
}

impl<K: Hash + Eq, V> Deref for Ref<Rc<RwLockReadGuard<'_, HashMap<K, V>>>, K> {
    type Target = V;
    fn deref(&self) -> &V {
        &self.shard[&self.key]
    }
}

impl<K: Hash + Eq, V> Deref for Ref<RwLockWriteGuard<'_, HashMap<K, V>>, K> {
    type Target = V;
    fn deref(&self) -> &V {
        &self.shard[&self.key]
    }
}

impl<K: Hash + Eq, V> DerefMut for Ref<RwLockWriteGuard<'_, HashMap<K, V>>, K> {
    fn deref_mut(&mut self) -> &mut V {
        self.shard.get_mut(&self.key).unwrap()
    }
}
