//! Draws the slots of one class of PGs, one PG after the other, from counts of what is drawn.

use nexusgrid_codec::DriveId;
use nexusgrid_meta::root::topology::PgClass;

/// From so many domains on, leaving out is left to the weights alone.
const ROTATION_BELOW: usize = 20;

/// A failure domain: drives that may fail together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Domain {
    /// People switch it off.
    pub(crate) sleepy: bool,
    /// Its drives with their weights.
    pub(crate) drives: Vec<(DriveId, u32)>,
}

impl Domain {
    pub(crate) fn has(&self, drive: DriveId) -> bool {
        self.drives.iter().any(|(own, _)| *own == drive)
    }

    fn weight(&self) -> u64 {
        self.drives.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>().max(1)
    }
}

/// The state of a drawing: how often each domain and drive is used, and left out.
pub(crate) struct Drawing<'a> {
    class: PgClass,
    domains: &'a [Domain],
    /// Slots drawn, by domain and drive.
    used: Vec<Vec<u64>>,
    /// PGs that leave the domain out.
    left_out: Vec<u64>,
    open: usize,
}

impl<'a> Drawing<'a> {
    pub(crate) fn new(class: PgClass, domains: &'a [Domain]) -> Drawing<'a> {
        let used = domains.iter().map(|domain| vec![0; domain.drives.len()]).collect();
        Drawing { class, domains, used, left_out: vec![0; domains.len()], open: 0 }
    }

    /// Counts an open PG.
    pub(crate) fn count(&mut self, slots: &[DriveId]) {
        self.open += 1;
        for (index, domain) in self.domains.iter().enumerate() {
            let mut hit = false;
            for ((drive, _), used) in domain.drives.iter().zip(&mut self.used[index]) {
                if slots.contains(drive) {
                    *used += 1;
                    hit = true;
                }
            }
            self.left_out[index] += u64::from(!hit);
        }
    }

    /// PGs counted and drawn.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Whether each domain that may be left out is left out by some PG.
    pub(crate) fn rotation_holds(&self) -> bool {
        let rotates = (self.class.width() + 1..ROTATION_BELOW).contains(&self.domains.len());
        let holds = |at: usize| self.left_out[at] > 0 || !self.can_leave_out(&[at]);
        !rotates || (0..self.domains.len()).all(holds)
    }

    /// Whether a PG can be drawn without these.
    fn can_leave_out(&self, out: &[usize]) -> bool {
        let rest = || (0..self.domains.len()).filter(|at| !out.contains(at));
        let sleepy = rest().filter(|at| self.domains[*at].sleepy).count();
        let stable = rest().count() - sleepy;
        stable + sleepy.min(self.sleepy_max()) >= self.class.width()
    }

    /// The next PG's slots; `None` if there are too few domains.
    pub(crate) fn draw(&mut self) -> Option<Vec<DriveId>> {
        let width = self.class.width();
        let spare = self.domains.len().checked_sub(width)?;
        let sleepy_max = self.sleepy_max();
        let mut order: Vec<usize> = (0..self.domains.len()).collect();
        // The most loaded first: those never left out are the ones to leave out now.
        order.sort_by(|a, b| self.pressure(*b).total_cmp(&self.pressure(*a)).then(a.cmp(b)));
        let mut out: Vec<usize> = Vec::new();
        if !self.rotation_holds() {
            for at in order.iter().filter(|at| self.left_out[**at] == 0) {
                out.push(*at);
                // The limit on sleepy slots outranks rotation.
                if out.len() > spare || !self.can_leave_out(&out) {
                    out.pop();
                }
            }
        }
        let mut chosen = self.choose(&order, &out, width, sleepy_max);
        if chosen.len() < width {
            return None;
        }
        // Turn the slots, so that data and parity slots go round.
        chosen.sort_unstable();
        chosen.rotate_left(self.open % width);
        let slots: Vec<DriveId> =
            chosen.iter().filter_map(|domain| self.lightest_drive(*domain)).collect();
        self.count(&slots);
        Some(slots)
    }

    fn choose(
        &self,
        order: &[usize],
        out: &[usize],
        width: usize,
        sleepy_max: usize,
    ) -> Vec<usize> {
        let mut sleepy = 0;
        let mut chosen = Vec::with_capacity(width);
        for at in order.iter().rev().filter(|at| !out.contains(at)) {
            let is_sleepy = self.domains[*at].sleepy;
            if chosen.len() == width || (is_sleepy && sleepy == sleepy_max) {
                continue;
            }
            sleepy += usize::from(is_sleepy);
            chosen.push(*at);
        }
        chosen
    }

    /// Sleepy slots allowed: m − 1 where there are stable domains enough for the rest.
    fn sleepy_max(&self) -> usize {
        let width = self.class.width();
        let limit = usize::from(self.class.m().saturating_sub(1));
        let stable = self.domains.iter().filter(|domain| !domain.sleepy).count();
        if stable + limit >= width { limit } else { width - stable.min(width) }
    }

    /// How much is drawn from a domain, for its weight.
    fn pressure(&self, domain: usize) -> f64 {
        let used: u64 = self.used[domain].iter().sum();
        used as f64 / self.domains[domain].weight() as f64
    }

    fn lightest_drive(&self, domain: usize) -> Option<DriveId> {
        let drives = self.domains[domain].drives.iter().zip(&self.used[domain]);
        let pressure = |used: u64, weight: u32| (used + 1) as f64 / f64::from(weight.max(1));
        drives
            .min_by(|((_, a), used_a), ((_, b), used_b)| {
                pressure(**used_a, *a).total_cmp(&pressure(**used_b, *b))
            })
            .map(|((drive, _), _)| *drive)
    }
}
