//! Episodes: each has a machine and rounds on it, and reports the position of a failure.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::actor::Actor;
use crate::machine::Machine;
use crate::notes::Notes;
use crate::quiet::Conductor;
use crate::tally::Tally;
use crate::world::World;
use crate::{Failure, Parts, complaints};

/// A soak to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed that everything follows from.
    pub seed: u64,
    /// The first episode.
    pub first: u64,
    /// The most episodes.
    pub episodes: u64,
    /// The most calls of the library.
    pub operations: u64,
    /// The longest time.
    pub time: Duration,
    /// How many threads play the episodes that are not played by one thread.
    pub threads: usize,
    /// The parts that take place.
    pub parts: Parts,
}

/// The results of a soak.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Counts of everything that was done.
    pub tally: Tally,
    /// Episodes that ended well.
    pub episodes: u64,
    /// Calls of the machines' drivers.
    pub driver_calls: u64,
    /// The next episode, to continue from.
    pub next: u64,
}

/// Where a soak stopped, and why.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// The episode.
    pub episode: u64,
    /// The position in it and the failure, in words.
    pub what: String,
    /// The last calls of every actor.
    pub notes: String,
}

/// The longest time without progress.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many rounds an episode has.
const ROUNDS: std::ops::Range<u64> = 20..120;

/// Turns of all actors in all episodes so far, as the watchdog sees them.
static PROGRESS: AtomicU64 = AtomicU64::new(0);

/// The seed of one of an episode's random generators.
fn mixed(seed: u64, episode: u64, whose: u64) -> u64 {
    Rng::with_seed(Rng::with_seed(seed).u64(..) ^ (episode << 16 | whose)).u64(..)
}

/// Runs episodes until the time or the operations are used up, and calls `tell` after each.
///
/// # Errors
/// The first failure.
pub fn run(plan: &Plan, report: &mut Report, mut tell: impl FnMut(&Report)) -> Result<(), Box<Stopped>> {
    complaints::listen();
    let start = Instant::now();
    report.next = plan.first;
    for episode in plan.first..plan.first.saturating_add(plan.episodes) {
        if start.elapsed() >= plan.time || report.tally.operations() >= plan.operations {
            break;
        }
        play(plan, episode, report)?;
        report.episodes += 1;
        report.next = episode + 1;
        tell(report);
    }
    Ok(())
}

/// Plays one episode.
fn play(plan: &Plan, episode: u64, report: &mut Report) -> Result<(), Box<Stopped>> {
    let mut random = Rng::with_seed(mixed(plan.seed, episode, 0xffff));
    let alone = episode.is_multiple_of(2);
    let actors = if alone { random.usize(1..=4) } else { plan.threads };
    let rounds = random.u64(ROUNDS);
    let stopped = |position: &str, why: Failure, description: &str, notes: &[Notes]| {
        let lines = notes.iter().enumerate().map(|(number, notes)| format!("actor {number}:\n{}", notes.lines()));
        let played = if alone { "one thread".into() } else { format!("{actors} threads") };
        Box::new(Stopped {
            episode,
            what: format!("episode {episode} ({played}), {position}: {}\n  the machine: {description}", why.0),
            notes: lines.collect(),
        })
    };
    let machine = Machine::new(&mut random, alone).map_err(|why| stopped("its machine", why, "", &[]))?;
    let world = Arc::new(World {
        alone,
        parts: plan.parts,
        notes: (0..actors).map(|_| Notes::default()).collect(),
        mail: Mutex::default(),
        machine,
    });
    let stage = Stage {
        actors: (0..actors)
            .map(|number| Mutex::new(Actor::new(number, world.clone(), mixed(plan.seed, episode, number as u64))))
            .collect(),
        barrier: Barrier::new(actors + 1),
        steps: AtomicU64::new(0),
        over: AtomicBool::new(false),
        failed: Mutex::new(None),
    };
    let mut conductor = Conductor::new(mixed(plan.seed, episode, 0xfffe), world.machine.profiles.len());
    let result = if alone {
        stage.alone(&mut conductor, &mut random, rounds)
    } else {
        stage.together(&mut conductor, &mut random, rounds)
    };
    for actor in &stage.actors {
        report.tally.add(&locked(actor).tally);
    }
    report.tally.add(&conductor.tally);
    report.driver_calls += world.machine.gpu.total_calls();
    result
        .and_then(|()| world.machine.end().map_err(|why| ("its end".into(), why)))
        .map_err(|(position, why)| stopped(&position, why, &world.machine.description, &world.notes))
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A position in an episode, and the failure there.
type At = (String, Failure);

/// The number of steps of the last round, in which each actor ends everything that it began.
const FINISH: u64 = 0;

/// Where an episode is played.
struct Stage {
    actors: Vec<Mutex<Actor>>,
    barrier: Barrier,
    steps: AtomicU64,
    over: AtomicBool,
    failed: Mutex<Option<(usize, Failure)>>,
}

impl Stage {
    /// Plays one actor's part of a round. A panic is a failure like any other.
    fn act(&self, number: usize, steps: u64) {
        let mut actor = locked(&self.actors[number]);
        let part = catch_unwind(AssertUnwindSafe(|| if steps == FINISH { actor.finish() } else { actor.act(steps) }));
        let result = part.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Failure(format!("a panic: {}", text.unwrap_or_default())))
        });
        PROGRESS.fetch_add(1, Ordering::Relaxed);
        if let Err(why) = result {
            locked(&self.failed).get_or_insert((number, why));
        }
    }

    /// The failure that an actor has found in a round, with its position.
    fn found(&self, round: u64) -> Result<(), At> {
        match locked(&self.failed).take() {
            Some((number, why)) => {
                let calls = locked(&self.actors[number]).world.notes[number].count();
                Err((format!("round {round}, actor {number}, its call {calls}"), why))
            }
            None => Ok(()),
        }
    }

    /// Conducts the quiet after a round.
    fn conduct(&self, conductor: &mut Conductor, round: u64) -> Result<(), At> {
        let mut guards: Vec<_> = self.actors.iter().map(locked).collect();
        let world = guards[0].world.clone();
        let mut actors: Vec<&mut Actor> = guards.iter_mut().map(|guard| &mut **guard).collect();
        conductor.conduct(&world, &mut actors).map_err(|why| (format!("the quiet after round {round}"), why))
    }

    fn world(&self) -> Arc<World> {
        locked(&self.actors[0]).world.clone()
    }

    /// Ends an episode after its rounds. `finish` makes every actor end everything that it began.
    fn end(&self, conductor: &mut Conductor, rounds: u64, finish: impl FnOnce()) -> Result<(), At> {
        let world = self.world();
        conductor.disarm(&world).map_err(|why| ("the last quiet".into(), why))?;
        world.machine.gpu.set_completion(kitten_sim::Completion::Immediate);
        finish();
        self.found(rounds)?;
        conductor.finish(&world).map_err(|why| ("the end".into(), why))
    }

    /// Plays with this thread alone, which acts for one actor after another in short turns.
    fn alone(&self, conductor: &mut Conductor, random: &mut Rng, rounds: u64) -> Result<(), At> {
        conductor.ask_before_use(&self.world()).map_err(|why| ("the beginning".into(), why))?;
        for round in 0..rounds {
            for _ in 0..random.u64(10..60) {
                self.act(random.usize(..self.actors.len()), random.u64(1..300));
                self.found(round)?;
            }
            self.conduct(conductor, round)?;
        }
        self.end(conductor, rounds, || (0..self.actors.len()).for_each(|number| self.act(number, FINISH)))
    }

    /// Plays with a thread for each actor. This thread conducts the quiet.
    fn together(&self, conductor: &mut Conductor, random: &mut Rng, rounds: u64) -> Result<(), At> {
        std::thread::scope(|scope| {
            for number in 0..self.actors.len() {
                scope.spawn(move || self.follow(number));
            }
            let result = self.lead(conductor, random, rounds);
            self.over.store(true, Ordering::Release);
            self.barrier.wait();
            result
        })
    }

    fn lead(&self, conductor: &mut Conductor, random: &mut Rng, rounds: u64) -> Result<(), At> {
        conductor.ask_before_use(&self.world()).map_err(|why| ("the beginning".into(), why))?;
        for round in 0..rounds {
            self.round(random.u64(200..4000));
            self.found(round)?;
            self.conduct(conductor, round)?;
        }
        self.end(conductor, rounds, || self.round(FINISH))
    }

    /// Lets every actor's thread take this many steps.
    fn round(&self, steps: u64) {
        self.steps.store(steps, Ordering::Release);
        self.barrier.wait();
        self.barrier.wait();
    }

    /// An actor's thread.
    fn follow(&self, number: usize) {
        loop {
            self.barrier.wait();
            if self.over.load(Ordering::Acquire) {
                return;
            }
            self.act(number, self.steps.load(Ordering::Acquire));
            self.barrier.wait();
        }
    }
}

/// Starts a watchdog that ends the process after too long without progress, when threads wait for
/// each other in the library.
pub fn watch() {
    std::thread::spawn(|| {
        let mut seen = (0, Instant::now());
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let progress = PROGRESS.load(Ordering::Relaxed);
            if progress != seen.0 {
                seen = (progress, Instant::now());
            } else if seen.1.elapsed() > PATIENCE {
                eprintln!("no progress for {} s: the threads wait for each other", PATIENCE.as_secs());
                std::process::abort();
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::ffi::c_void;

    use giant_kitten::abi;

    use super::*;
    use crate::contents::Contents;
    use crate::machine::no_fault;

    /// A process has one library, so tests that install it take turns.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    fn plan(first: u64, episodes: u64) -> Plan {
        let parts = Parts::without(&[]);
        Plan { seed: 7, first, episodes, operations: u64::MAX, time: Duration::MAX, threads: 3, parts }
    }

    /// A machine, and an actor that has acted on it.
    fn actor(seed: u64) -> (Arc<World>, Actor) {
        complaints::listen();
        let machine = Machine::new(&mut Rng::with_seed(seed), true).expect("a machine");
        let notes = vec![Notes::default()];
        let world = World { alone: true, parts: Parts::without(&[]), notes, mail: Mutex::default(), machine };
        let world = Arc::new(world);
        let mut actor = Actor::new(0, world.clone(), seed);
        actor.act(5000).expect("nothing is wrong");
        (world, actor)
    }

    fn conducted(world: &World, actor: &mut Actor) -> Result<(), Failure> {
        let mut conductor = Conductor::new(1, world.machine.profiles.len());
        conductor.count(world, &[actor])?;
        conductor.compare_with_snapshot(world, &[actor])
    }

    /// The text of a failure.
    fn text_of(result: Result<(), Failure>) -> String {
        result.expect_err("something is wrong").0
    }

    #[test]
    fn an_episode_of_one_thread_runs_the_same_way_again() {
        let _turn = locked(&ONE_AT_A_TIME);
        let [first, second] = [(); 2].map(|()| {
            let mut report = Report::default();
            run(&plan(4, 1), &mut report, |_| {}).expect("nothing is wrong");
            (report.tally, report.driver_calls)
        });
        assert_eq!(first, second);
        let tally = first.0;
        assert!(tally.mallocs > 10_000 && tally.compared > 100 && tally.actions > 10 && tally.wrong > 10, "{tally:?}");
    }

    #[test]
    fn several_threads_find_nothing() {
        let _turn = locked(&ONE_AT_A_TIME);
        let mut report = Report::default();
        if let Err(stopped) = run(&plan(1, 1), &mut report, |_| {}) {
            panic!("{}{}", stopped.notes, stopped.what);
        }
        assert_eq!(report.episodes, 1);
    }

    #[test]
    fn a_wrong_byte_is_found() {
        let _turn = locked(&ONE_AT_A_TIME);
        let (world, mut actor) = actor(1);
        let nth = actor.malloc_of(5000, 0, 0).expect("nothing is wrong").expect("there is room");
        let contents = Contents::random(&mut actor.random);
        let mut bytes = contents.bytes(5000).to_vec();
        bytes[4999] ^= 1;
        world.machine.gpu.write(actor.live[nth].address, &bytes).expect("it can be written");
        actor.live[nth].contents = Some(contents);
        let why = actor.free_of(nth).and_then(|()| actor.settle());
        assert!(text_of(why).contains("differs in 1 bytes, the first of them 4999"));
    }

    #[test]
    fn a_block_freed_by_no_actor_is_found() {
        let _turn = locked(&ONE_AT_A_TIME);
        let (world, mut actor) = actor(2);
        conducted(&world, &mut actor).expect("nothing is wrong before");
        let block = &actor.live[0];
        abi::gk_free(block.address as *mut c_void, 0, 0, std::ptr::null_mut());
        let why = text_of(conducted(&world, &mut actor));
        assert!(why.contains("live blocks"), "{why}");
        assert!(text_of(actor.free_of(0)).contains("not the start of a live block"));
    }

    #[test]
    fn memory_that_the_library_does_not_know_is_found() {
        let _turn = locked(&ONE_AT_A_TIME);
        let (world, _actor) = actor(3);
        world.machine.books().expect("nothing is wrong before");
        let granule = world.machine.profiles[0].granularity;
        world.machine.gpu.create(0, kitten_sim::Tier::Dedicated, granule).expect("there is room");
        assert!(text_of(world.machine.books()).contains("of Dedicated memory by gk_stats"));
        assert!(text_of(world.machine.end()).contains("left"));
    }

    #[test]
    fn a_use_too_early_is_found() {
        let _turn = locked(&ONE_AT_A_TIME);
        let (world, mut actor) = actor(4);
        let nth = actor.malloc_of(5000, 0, 0).expect("nothing is wrong").expect("there is room");
        let other = world.machine.gpu.create_stream().expect("a stream");
        let access = kitten_sim::Access::write(actor.live[nth].address, 5000);
        for stream in [0, other] {
            world.machine.gpu.launch(stream, "a use", &[access]).expect("it can be launched");
        }
        assert!(text_of(no_fault()).contains("too early"));
    }
}
