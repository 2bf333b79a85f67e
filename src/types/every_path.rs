//! For tests of what several threads do: every order of their steps, one path after the other.

/// The choices of the path that is walked: which of those who could take a step, of how many.
#[derive(Debug, Default)]
pub struct EveryPath {
    choices: Vec<(usize, usize)>,
    at: usize,
}

impl EveryPath {
    /// Which of so many takes the next step of this path.
    pub fn choose(&mut self, of: usize) -> usize {
        if self.at == self.choices.len() {
            self.choices.push((0, of));
        }
        self.at += 1;
        self.choices[self.at - 1].0
    }

    /// On to the next path; false where all were walked.
    pub fn advance(&mut self) -> bool {
        self.at = 0;
        while self.choices.last().is_some_and(|(choice, of)| choice + 1 == *of) {
            self.choices.pop();
        }
        self.choices.last_mut().map(|(choice, _)| *choice += 1).is_some()
    }
}

#[test]
fn every_order_is_walked_once() {
    let (mut path, mut walked) = (EveryPath::default(), Vec::new());
    loop {
        let first = path.choose(3);
        walked.push((first, (first > 0).then(|| path.choose(2))));
        if !path.advance() {
            break;
        }
    }
    assert_eq!(walked, [(0, None), (1, Some(0)), (1, Some(1)), (2, Some(0)), (2, Some(1))]);
}
