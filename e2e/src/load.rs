//! Many requests at once, and what became of each.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use anyhow::{Result, ensure};
use http_body_util::Full;
use hyper::Request;
use tokio::task::LocalSet;

use crate::{
    bodies::{Question, question},
    http::{Answer, Caller, Hung},
};

/// How long a caller waits after an answer that is none.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);

/// What became of a number of requests.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// 200 with the right result.
    pub right: u32,
    /// 200 with anything else; what was asked and answered.
    pub wrong: Vec<String>,
    /// Problem documents by status and code.
    pub problems: BTreeMap<String, u32>,
    /// Neither 200 nor a problem document, or no whole answer at all.
    pub broken: Vec<String>,
    /// No answer within [`crate::http::HANG`].
    pub hung: u32,
    /// The longest any answer took.
    pub longest: Duration,
}

impl Tally {
    /// All requests.
    #[must_use]
    pub fn total(&self) -> u32 {
        let several = self.wrong.len() + self.broken.len();
        self.right + self.problem_count() + self.hung + u32::try_from(several).unwrap_or(u32::MAX)
    }

    /// All problem documents.
    #[must_use]
    pub fn problem_count(&self) -> u32 {
        self.problems.values().sum()
    }

    /// Checks that every request got the right answer.
    ///
    /// # Errors
    /// When one did not.
    pub fn ensure_all_right(&self) -> Result<()> {
        ensure!(self.right > 0, "nothing was asked");
        ensure!(
            self.right == self.total(),
            "not all answers are right: {self}"
        );
        Ok(())
    }

    /// Checks that nobody got a wrong answer or hung, that every failure was a problem document,
    /// and that every answer came within `limit`.
    ///
    /// # Errors
    /// When one did not.
    pub fn ensure_right_or_clear(&self, limit: Duration) -> Result<()> {
        ensure!(self.right > 0, "not one answer was right: {self}");
        ensure!(
            self.right + self.problem_count() == self.total(),
            "answers that are neither right nor clear: {self}"
        );
        ensure!(
            self.longest <= limit,
            "an answer took longer than {limit:?}: {self}"
        );
        Ok(())
    }

    fn add(&mut self, question: &Question, answer: Result<Answer>) {
        match answer {
            Ok(answer) => {
                self.longest = self.longest.max(answer.took);
                self.add_answer(question, &answer);
            }
            Err(error) if error.is::<Hung>() || error.root_cause().is::<Hung>() => self.hung += 1,
            Err(error) => self.broken.push(format!("{error:#}")),
        }
    }

    fn add_answer(&mut self, question: &Question, answer: &Answer) {
        let result = answer.json().ok().filter(|_| answer.status == 200);
        match (result, answer.code()) {
            (Some(json), _) if json["result"] == question.result && json["message"] == "OK" => {
                self.right += 1;
            }
            (Some(_), _) => self
                .wrong
                .push(format!("{question:?} was answered {}", answer.text())),
            (None, Some(code)) => {
                let key = format!("{} {code}", answer.status);
                *self.problems.entry(key).or_default() += 1;
            }
            (None, None) => self.broken.push(format!("{answer:?}")),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, {} right, {} wrong, problems {:?}, {} broken, {} hung, longest {:?}",
            self.total(),
            self.right,
            self.wrong.len(),
            self.problems,
            self.broken.len(),
            self.hung,
            self.longest
        )?;
        for line in self.wrong.iter().chain(&self.broken).take(5) {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

/// Asks the questions `first..first + count`, `callers` at a time, the addresses in turn.
///
/// # Errors
/// Never because of an answer: that is in the tally.
pub async fn ask(
    addresses: &[SocketAddr],
    first: u32,
    count: u32,
    callers: usize,
) -> Result<Tally> {
    let load = Load::new(addresses, first);
    load.last.set(Some(first + count));
    load.run(callers, async || Ok(())).await
}

/// Asks questions from `first` on, `callers` at a time, for as long as `meanwhile` runs.
///
/// # Errors
/// Those of `meanwhile`.
pub async fn ask_while(
    addresses: &[SocketAddr],
    first: u32,
    callers: usize,
    meanwhile: impl AsyncFnOnce(&Progress) -> Result<()>,
) -> Result<Tally> {
    let load = Load::new(addresses, first);
    let progress = Progress(load.tally.clone());
    load.run(callers, async || {
        let done = meanwhile(&progress).await;
        load.last.set(Some(0));
        done
    })
    .await
}

/// What the load has reached so far.
#[derive(Debug)]
pub struct Progress(Rc<RefCell<Tally>>);

impl Progress {
    /// How many right answers there were.
    #[must_use]
    pub fn right(&self) -> u32 {
        self.0.borrow().right
    }

    /// Waits until there are `more` right answers than now.
    ///
    /// # Errors
    /// When they do not come.
    pub async fn wait_for_right(&self, more: u32) -> Result<()> {
        let goal = self.right() + more;
        crate::until::until_true("more right answers", crate::until::SOON, async || {
            let tally = self.0.borrow();
            ensure!(tally.right >= goal, "{tally}");
            Ok(true)
        })
        .await
    }
}

struct Load<'a> {
    addresses: &'a [SocketAddr],
    next: Rc<Cell<u32>>,
    last: Rc<Cell<Option<u32>>>,
    tally: Rc<RefCell<Tally>>,
}

impl<'a> Load<'a> {
    fn new(addresses: &'a [SocketAddr], first: u32) -> Self {
        Self {
            addresses,
            next: Rc::new(Cell::new(first)),
            last: Rc::default(),
            tally: Rc::default(),
        }
    }

    async fn run(
        &self,
        callers: usize,
        meanwhile: impl AsyncFnOnce() -> Result<()>,
    ) -> Result<Tally> {
        let set = LocalSet::new();
        for address in self.addresses.iter().cycle().take(callers) {
            set.spawn_local(call(
                *address,
                self.next.clone(),
                self.last.clone(),
                self.tally.clone(),
            ));
        }
        set.run_until(meanwhile()).await?;
        set.await;
        Ok(self.tally.take())
    }
}

async fn call(
    address: SocketAddr,
    next: Rc<Cell<u32>>,
    last: Rc<Cell<Option<u32>>>,
    tally: Rc<RefCell<Tally>>,
) {
    let mut caller = Caller::new(address);
    while last.get().is_none_or(|last| next.get() < last) {
        let question = question(next.get());
        next.set(next.get() + 1);
        let request = Request::post("/task")
            .body(Full::from(question.body.clone()))
            .expect("the path is one");
        let answer = caller.send(request).await;
        let refused = !answer.as_ref().is_ok_and(|answer| answer.status == 200);
        tally.borrow_mut().add(&question, answer);
        if refused {
            // Perhaps for seconds: do not fill the tally with refusals.
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    }
}
