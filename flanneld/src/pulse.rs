//! The question whether a loop still turns, and its answer: what the watchdog of the service manager wants to know.
//!
//! Asked from another task, answered by the loop itself between two turns, so that a loop that hangs answers nothing.

use tokio::sync::watch;

/// The two ends: for the one who asks, and for the loop.
pub(crate) fn pulse() -> (Asker, Answerer) {
    let (asked, questions) = watch::channel(0);
    let (answered, answers) = watch::channel(0);
    (Asker { asked, answers }, Answerer { questions, answered })
}

/// Asks.
#[derive(Debug)]
pub(crate) struct Asker {
    asked: watch::Sender<u64>,
    answers: watch::Receiver<u64>,
}

/// Answers.
#[derive(Debug)]
pub(crate) struct Answerer {
    questions: watch::Receiver<u64>,
    answered: watch::Sender<u64>,
}

impl Asker {
    /// Asks. Earlier questions need no answer any more.
    pub(crate) fn ask(&self) {
        self.asked.send_modify(|number| *number += 1);
    }

    /// Waits for the answer to the last question, which is told once. Cancel-safe.
    pub(crate) async fn answered(&mut self) {
        loop {
            if self.answers.changed().await.is_err() {
                // The loop has ended, and will not answer.
                std::future::pending::<()>().await;
            }
            if *self.answers.borrow() == *self.asked.borrow() {
                return;
            }
        }
    }
}

impl Answerer {
    /// Waits for a question; nothing but [`Answerer::answer`] takes it away. Cancel-safe.
    pub(crate) async fn asked(&mut self) {
        let answered = *self.answered.borrow();
        if self.questions.wait_for(|number| *number != answered).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Answers.
    pub(crate) fn answer(&self) {
        self.answered.send_replace(*self.questions.borrow());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    const LIMIT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_to_the_last_question_and_told_once() {
        let (mut asker, mut answerer) = pulse();
        assert!(timeout(LIMIT, answerer.asked()).await.is_err(), "nobody asked");
        asker.ask();
        answerer.asked().await;
        asker.ask();
        answerer.answer();
        asker.answered().await;
        assert!(timeout(LIMIT, asker.answered()).await.is_err(), "told already");
        asker.ask();
        assert!(timeout(LIMIT, asker.answered()).await.is_err(), "not answered yet");
        answerer.asked().await;
        answerer.answer();
        asker.answered().await;
        assert!(timeout(LIMIT, answerer.asked()).await.is_err(), "answered already");
        drop(answerer);
        asker.ask();
        assert!(timeout(LIMIT, asker.answered()).await.is_err(), "nobody is there");
    }
}
