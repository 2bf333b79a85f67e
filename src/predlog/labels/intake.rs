//! Where a running server takes labels in: for models whose predictions it logs, counted.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Names,
    import::{Import, Imported, Refused},
    parse::{Form, Input},
    store::Store,
};
use crate::{
    predlog::{capture::wall, store::Shared},
    telemetry::predictions::LabelReading,
};

/// What was taken in, by model.
#[derive(Debug, Default)]
pub struct Counts(Mutex<BTreeMap<String, LabelReading>>);

impl Counts {
    pub fn read(&self) -> Vec<LabelReading> {
        self.0.lock().values().cloned().collect()
    }

    fn add(&self, model: &str, imported: &Imported) {
        let mut all = self.0.lock();
        let own = all
            .entry(model.to_owned())
            .or_insert_with(|| LabelReading { model: model.to_owned(), ..LabelReading::default() });
        own.new += imported.put.written;
        own.same += imported.put.known;
    }
}

/// What a server does with labels.
#[derive(Clone)]
pub struct Intake {
    shared: Arc<Shared>,
    store: Store,
    turns: Arc<Semaphore>,
}

impl Intake {
    pub fn new(shared: Arc<Shared>) -> Intake {
        let store = Store::at(&shared.place.root);
        Intake { shared, store, turns: Arc::new(Semaphore::new(1)) }
    }

    /// Whether predictions of this model are logged, or were.
    pub fn takes(&self, model: &str) -> bool {
        self.shared.keeps(model)
    }

    /// Waits for whoever came before to have imported what they bring; `None` never comes, for nobody closes it.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.turns.clone().acquire_owned().await.ok()
    }

    /// Brings labels in and counts them. Reads and writes files: not for a thread that others wait for.
    ///
    /// # Errors
    /// As `Import::run`.
    pub fn import(
        &self,
        model: &str,
        (names, source): (&Names, Option<&str>),
        input: Input<'_>,
        form: Form,
    ) -> Result<Imported, Refused> {
        let import = Import { store: &self.store, model, names, source, now: wall().wall_us };
        let imported = import.run(input, form)?;
        self.shared.numbers.labels.add(model, &imported);
        Ok(imported)
    }
}
