//! Files of an entry that are not complete, and complete ones that wait for them: a run would take all of them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::stability::{IncompleteSince, Reason};

/// Files that are not known to be complete.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PendingFiles {
    /// How many.
    pub count: usize,
    /// The one that was seen first, why it is not, and since when it is seen.
    pub oldest: Option<(PathBuf, IncompleteSince)>,
    /// How many of them are no longer waited for.
    pub given_up: usize,
    /// Complete files that are held back by the others.
    pub held: usize,
}

impl PendingFiles {
    /// Whether a person would see no difference.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let oldest = |pending: &Self| {
            let (path, unfinished) = pending.oldest.as_ref()?;
            Some((path.clone(), unfinished.reason, unfinished.since))
        };
        let numbers = |pending: &Self| (pending.count, pending.given_up, pending.held);
        numbers(self) == numbers(other) && oldest(self) == oldest(other)
    }
}

/// Files that are complete, and were not when they were told of last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CompleteFiles {
    /// How many.
    pub count: usize,
    /// One of them.
    pub example: Option<PathBuf>,
}

/// What the files that are not complete mean for the others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WaitingFiles {
    /// When the next file may be complete, or is no longer waited for.
    pub check_at: Option<Instant>,
    /// Files that are no longer waited for, from now on.
    pub given_up: Vec<PathBuf>,
    /// How things are.
    pub pending: PendingFiles,
}

/// A file by its directory and name.
pub type Key = (PathBuf, OsString);

/// What is known of a file that is not complete.
#[derive(Debug, Clone, Copy)]
enum Held {
    /// Events have told of it since the last look.
    Touched,
    /// As it was at the last look.
    #[allow(missing_docs)]
    Seen { unfinished: IncompleteSince, is_given_up: bool },
}

/// The files, and how many complete ones wait for them.
#[derive(Debug, Default)]
pub struct UnfinishedFiles {
    files: HashMap<Key, Held>,
    held: CompleteFiles,
}

impl UnfinishedFiles {
    /// Events have told of a file that is not known to be complete.
    pub fn touch(&mut self, file: Key) {
        self.files.entry(file).or_insert(Held::Touched);
    }

    /// A look has shown that a file is not complete.
    pub fn see(&mut self, file: Key, unfinished: IncompleteSince) {
        let is_given_up = matches!(self.files.get(&file), Some(Held::Seen { is_given_up: true, .. }));
        self.files.insert(file, Held::Seen { unfinished, is_given_up });
    }

    /// A file is complete, or gone.
    pub fn remove(&mut self, file: &Key) {
        self.files.remove(file);
    }

    /// Files to look at again. Where events tell of a writer they tell of its close as well.
    #[must_use]
    pub fn due(&self, now: Instant) -> Vec<Key> {
        let is_due = |held: &Held| match held {
            Held::Touched => true,
            Held::Seen { unfinished, .. } => {
                unfinished.reason != Reason::Open || unfinished.until.is_some_and(|until| until <= now)
            }
        };
        self.files.iter().filter(|(_, held)| is_due(held)).map(|(file, _)| file.clone()).collect()
    }

    /// Those that were seen, and whether they are still waited for.
    pub fn counts(&self) -> impl Iterator<Item = (PathBuf, IncompleteSince, bool)> + '_ {
        self.files.iter().filter_map(|((directory, name), held)| match held {
            Held::Seen { unfinished, is_given_up } => Some((directory.join(name), *unfinished, !is_given_up)),
            Held::Touched => None,
        })
    }

    /// Begins a round of looks at everything; the answer is for its end.
    #[must_use]
    pub fn begin_round(&mut self) -> HashMap<Key, IncompleteSince> {
        let given_up = |(file, held)| match held {
            Held::Seen { unfinished, is_given_up: true } => Some((file, unfinished)),
            _ => None,
        };
        std::mem::take(&mut self.files).into_iter().filter_map(given_up).collect()
    }

    /// Ends it: a file that was given up before stays so.
    pub fn end_round(&mut self, given_up_before: &HashMap<Key, IncompleteSince>) {
        for (file, then) in given_up_before {
            if let Some(Held::Seen { unfinished, is_given_up }) = self.files.get_mut(file) {
                *is_given_up |= unfinished.since == then.since;
            }
        }
    }

    /// Keeps complete files back while another one has to be waited for, but no longer than for `limit` after that was first
    /// seen.
    pub fn hold(&mut self, complete: &mut CompleteFiles, now: Instant, limit: Duration) -> WaitingFiles {
        let mut waiting = WaitingFiles {
            pending: PendingFiles { count: self.files.len(), ..PendingFiles::default() },
            ..WaitingFiles::default()
        };
        let mut is_held = false;
        for ((directory, name), held) in &mut self.files {
            let Held::Seen { unfinished, is_given_up } = held else {
                is_held = true;
                continue;
            };
            let end = unfinished.since + limit;
            if end <= now && !std::mem::replace(is_given_up, true) {
                waiting.given_up.push(directory.join(name));
            }
            let end = (!*is_given_up).then_some(end);
            waiting.check_at = [waiting.check_at, unfinished.until, end].into_iter().flatten().min();
            is_held |= !*is_given_up;
            let pending = &mut waiting.pending;
            pending.given_up += usize::from(*is_given_up);
            if pending.oldest.as_ref().is_none_or(|(_, oldest)| unfinished.since < oldest.since) {
                pending.oldest = Some((directory.join(name), *unfinished));
            }
        }
        self.held.count += std::mem::take(&mut complete.count);
        self.held.example = self.held.example.take().or(complete.example.take());
        if is_held {
            waiting.pending.held = self.held.count;
        } else {
            *complete = std::mem::take(&mut self.held);
        }
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn key(name: &str) -> Key {
        ("/in".into(), name.into())
    }

    fn complete(count: usize) -> CompleteFiles {
        CompleteFiles { count, example: (count > 0).then(|| "/in/complete".into()) }
    }

    #[test]
    fn complete_files_wait_for_another_one_up_to_a_limit() {
        let (mut files, start) = (UnfinishedFiles::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let scan = |files: &mut UnfinishedFiles, seconds, count| {
            let mut complete = complete(count);
            let WaitingFiles { pending, given_up, .. } = files.hold(&mut complete, at(seconds), LIMIT);
            (complete.count, pending.held, given_up.len(), pending.given_up)
        };
        assert_eq!(scan(&mut files, 0, 1), (1, 0, 0, 0), "there is nothing to wait for");
        files.touch(key("open"));
        assert_eq!(scan(&mut files, 1, 2), (0, 2, 0, 0));
        let open = IncompleteSince { reason: Reason::Open, until: Some(at(300)), since: at(1) };
        files.see(key("open"), open);
        assert_eq!(scan(&mut files, 2, 1), (0, 3, 0, 0));
        files.remove(&key("open"));
        assert_eq!(scan(&mut files, 3, 0), (3, 0, 0, 0));

        files.see(key("open"), open);
        assert_eq!(scan(&mut files, 60, 1), (0, 1, 0, 0));
        assert_eq!(scan(&mut files, 61, 0), (1, 0, 1, 1), "it is told");
        let before = files.begin_round();
        files.see(key("open"), open);
        files.end_round(&before);
        assert_eq!(scan(&mut files, 62, 1), (1, 0, 0, 1), "and told once");
        // Another file of the same name is waited for anew.
        let before = files.begin_round();
        files.see(key("open"), IncompleteSince { since: at(63), ..open });
        files.end_round(&before);
        assert_eq!(scan(&mut files, 63, 1), (0, 1, 0, 0));
    }

    #[test]
    fn a_look_is_due_when_something_may_have_changed() {
        let (mut files, start) = (UnfinishedFiles::default(), Instant::now());
        let unfinished = |reason| IncompleteSince { reason, until: Some(start + LIMIT * 2), since: start };
        files.see(key("open"), unfinished(Reason::Open));
        let waiting = files.hold(&mut complete(0), start, LIMIT);
        assert_eq!((waiting.check_at, files.due(start)), (Some(start + LIMIT), Vec::new()), "events tell of its close");
        assert_eq!(files.due(start + LIMIT * 2), [key("open")]);
        files.see(key("young"), unfinished(Reason::Young));
        assert_eq!(files.due(start), [key("young")]);
        files.touch(key("touched"));
        assert_eq!(files.due(start).len(), 2);
        assert_eq!(files.counts().count(), 2);
    }
}
