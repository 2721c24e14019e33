//! All contenders in clusters of one size, and their samples.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use weir_tests::bench::lanes::{Contender, Lane, Side};
use weir_tests::bench::load::Work;
use weir_tests::bench::site::{Processors, Site};
use weir_tests::bench::{Figure, Report, rounds};

use crate::plan::{Plan, minutes};
use crate::{goals, readings};

/// The name by which figures are known.
const BENCH: &str = "packets";

/// Everybody's sites.
pub struct Field<'a> {
    services: u32,
    contenders: &'a [Contender],
    /// One for each contender.
    sites: Vec<Site>,
}

/// How far the measuring has come.
pub struct Progress {
    all: usize,
    done: usize,
}

impl Progress {
    /// Nothing was done yet of so many samples.
    pub const fn new(all: usize) -> Self {
        Self { all, done: 0 }
    }

    fn tell(&mut self, done: usize, plan: &Plan, report: &Report) {
        self.done += done;
        let (all, left) = (self.all, self.all.saturating_sub(self.done));
        let minutes = minutes(plan.duration(left));
        report.note(&format!(
            "{} of {all} samples; {minutes} minutes left",
            self.done
        ));
    }
}

impl<'a> Field<'a> {
    /// Builds all sites, and says how long that took.
    pub fn build(
        weir: &Path,
        contenders: &'a [Contender],
        services: u32,
        report: &Report,
    ) -> Result<Self> {
        let mut sites = Vec::new();
        for contender in contenders {
            let start = Instant::now();
            let name = contender.title("");
            let site = Site::build(weir, &contender.proxy, services, contender.policies)
                .with_context(|| format!("{name}, {services} services"))?;
            report.note(&format!(
                "{name}, {}: there after {:.1} s",
                services_text(services),
                start.elapsed().as_secs_f64()
            ));
            sites.push(site);
        }
        Ok(Self {
            services,
            contenders,
            sites,
        })
    }

    /// All kinds of work, from both sides.
    pub fn measure(
        &mut self,
        direct: &mut Site,
        plan: &Plan,
        report: &mut Report,
        progress: &mut Progress,
    ) -> Result<()> {
        for processors in &plan.processors {
            for side in Side::ALL {
                let mut figures = Vec::new();
                for work in &plan.works {
                    let (more, samples) = self.work(direct, plan, (side, *work), *processors)?;
                    figures.extend(more);
                    progress.tell(samples, plan, report);
                }
                let title = format!(
                    "{}, {}, {}; load average {}",
                    side.name(),
                    services_text(self.services),
                    match processors {
                        Processors::One => "client and server on one processor",
                        Processors::Two => "client and server on a processor each",
                    },
                    load_average()?
                );
                report.add(&title, figures);
            }
        }
        Ok(())
    }

    /// One kind of work by everybody, and how many samples that took.
    fn work(
        &mut self,
        direct: &mut Site,
        plan: &Plan,
        (side, work): (Side, Work),
        processors: Processors,
    ) -> Result<(Vec<Figure>, usize)> {
        let lanes = Lane::all(self.contenders, side, work);
        let samples = rounds::take(lanes.len(), plan.rounds, |number| {
            let lane = &lanes[number];
            let site = match lane.contender {
                None => &mut *direct,
                Some(number) => &mut self.sites[number],
            };
            site.sample(lane.way, work, processors, plan.time)
                .with_context(|| format!("{}: {}", lane.name, site.last_words()))
        })?;
        let what = match processors {
            Processors::One => format!("{}, {}", readings::name(work), side.name()),
            Processors::Two => {
                let name = readings::name(work);
                format!("{name}, {}, two processors", side.name())
            }
        };
        let has_cycles = direct.why_no_cycles().is_none();
        let mut figures = Vec::new();
        for (suffix, unit, of) in readings::of(work, processors, has_cycles) {
            let values = rounds::of(&samples, of);
            for (number, lane) in lanes.iter().enumerate() {
                let value = values.summary(number).context("there are samples")?;
                let mut figure = Figure::new(
                    BENCH,
                    &services_text(self.services),
                    &lane.name,
                    &format!("{what}{suffix}"),
                    unit,
                    value,
                );
                figure.ratio = values.ratio(number, 0);
                let goal = match (suffix, processors) {
                    ("", Processors::One) => goals::of(self.contenders, lane, side, work),
                    _ => None,
                };
                let note = self.tracking(direct, lane)?;
                figures.push(figure.with_goal(goal).with_note(note));
            }
        }
        Ok((figures, lanes.len() * plan.rounds))
    }

    /// Whether the node's kernel tracks connections there.
    fn tracking(&self, direct: &Site, lane: &Lane) -> Result<String> {
        let site = match lane.contender {
            None => direct,
            Some(number) => &self.sites[number],
        };
        Ok(match site.tracked()? {
            0 => "no connection tracking".to_owned(),
            some => format!("{some} connections tracked"),
        })
    }
}

fn services_text(services: u32) -> String {
    match services {
        1 => "1 service".to_owned(),
        more => format!("{more} services"),
    }
}

fn load_average() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}
