//! The sessions of a worker, in places that are used again. PURE.

use crate::op::SessionKey;

/// Places for sessions. A place keeps a generation, so that a key of an earlier tenant finds
/// nothing.
#[derive(Debug)]
pub struct Table<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    capacity: u32,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    tenant: Option<T>,
}

impl<T> Table<T> {
    /// An empty table for up to `capacity` sessions; memory is taken as they come.
    ///
    /// # Panics
    /// If `capacity` is over [`SessionKey::INDEX_LIMIT`].
    pub const fn new(capacity: u32) -> Self {
        assert!(capacity <= SessionKey::INDEX_LIMIT);
        Self { places: Vec::new(), free: Vec::new(), capacity }
    }

    /// The key that the next tenant will have; `None` when the table is full.
    pub fn vacancy(&mut self) -> Option<SessionKey> {
        if self.free.is_empty() {
            let index = u32::try_from(self.places.len()).ok()?;
            if index >= self.capacity {
                return None;
            }
            self.places.push(Place { generation: 0, tenant: None });
            self.free.push(index);
        }
        let index = *self.free.last()?;
        Some(SessionKey::new(index, self.places[index as usize].generation))
    }

    /// Moves a tenant in.
    ///
    /// # Panics
    /// If `key` is not the one that [`Table::vacancy`] gave last.
    pub fn insert(&mut self, key: SessionKey, tenant: T) {
        assert_eq!(self.vacancy(), Some(key));
        self.free.pop();
        self.places[key.index()].tenant = Some(tenant);
    }

    /// The tenant, if it still is the one that the key names.
    pub fn of(&mut self, key: SessionKey) -> Option<&mut T> {
        let place = self.places.get_mut(key.index())?;
        if place.generation == key.generation() { place.tenant.as_mut() } else { None }
    }

    /// The key of whoever lives at an index.
    pub fn key_at(&self, index: usize) -> Option<SessionKey> {
        let place = self.places.get(index)?;
        place.tenant.as_ref()?;
        Some(SessionKey::new(u32::try_from(index).ok()?, place.generation))
    }

    /// Moves the tenant out. The place used last is used next: it is the one still in cache.
    pub fn remove(&mut self, key: SessionKey) -> Option<T> {
        self.of(key)?;
        let place = &mut self.places[key.index()];
        place.generation = place.generation.wrapping_add(1);
        self.free.push(u32::try_from(key.index()).ok()?);
        place.tenant.take()
    }

    /// Tenants now.
    pub const fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether nobody lives here.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys of all tenants.
    pub fn keys(&self) -> Vec<SessionKey> {
        (0..self.places.len()).filter_map(|index| self.key_at(index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(table: &mut Table<char>, tenant: char) -> SessionKey {
        let key = table.vacancy().unwrap();
        table.insert(key, tenant);
        key
    }

    #[test]
    fn an_old_key_finds_nothing_in_a_place_used_again() {
        let mut table = Table::new(1);
        let old = settle(&mut table, 'a');
        assert_eq!(table.vacancy(), None, "full");
        assert_eq!(table.remove(old), Some('a'));
        let new = settle(&mut table, 'b');
        assert_eq!(old.index(), new.index());
        assert_eq!(table.of(old), None);
        assert_eq!(table.remove(old), None);
        assert_eq!(table.of(new), Some(&mut 'b'));
        assert_eq!(table.keys(), [new]);
    }

    #[test]
    fn counts_its_tenants() {
        let mut table = Table::new(3);
        let keys: Vec<_> = "abc".chars().map(|tenant| settle(&mut table, tenant)).collect();
        assert_eq!(table.len(), 3);
        for key in keys {
            table.remove(key);
        }
        assert!(table.is_empty());
    }
}
