use super::*;
use crate::limits::WATCH_RESTS_ON_MAX;

const A: Watcher = Watcher { id: 1, session: 10 };
const B: Watcher = Watcher { id: 2, session: 20 };

const NODE: NodeId = NodeId(1);

fn at(millis: u64) -> BootInstant {
    BootInstant(Duration::from_millis(millis))
}

fn news(number: u64, marks: Option<&[Mark]>) -> Option<News> {
    Some(News { number, marks: marks.map(<[Mark]>::to_vec) })
}

/// What it is told, whether at once or not.
fn told(watchers: &Watchers, watcher: Watcher) -> Option<News> {
    watchers.news(watcher).map(|(news, _)| news)
}

fn rows(marks: &[Mark]) -> Changed {
    Changed::Rows(Some(marks.to_vec()))
}

/// Leads in term 3, with both of them.
fn both() -> Watchers {
    let watchers = Watchers::default();
    watchers.began(3, at(0));
    watchers.may_remember(3, &BTreeSet::new());
    for watcher in [A, B] {
        assert_eq!(watchers.call(3, (watcher, NODE), 0, true, at(0)), Called::Known);
    }
    watchers
}

fn reads(watchers: &Watchers, watcher: Watcher, marks: &[Mark]) {
    let begun = watchers.begin_read(3, (watcher, NODE)).unwrap();
    assert!(watchers.end_read(3, watcher, begun, marks, at(1)).is_some());
}

#[test]
fn who_reads_while_a_row_changes_must_not_remember_it() {
    let watchers = both();
    let begun = watchers.begin_read(3, (A, NODE)).unwrap();
    watchers.applied(7, 1, rows(&[5]));
    assert_eq!(watchers.end_read(3, A, begun, &[4, 5], at(1)), None);
    assert_eq!(watchers.end_read(3, A, begun, &[4], at(1)), Some(0), "that did not change");
    watchers.applied(8, 2, Changed::Rows(None));
    assert_eq!(watchers.end_read(3, A, begun, &[4], at(1)), None, "all may have");
    // Begun so long ago that nobody knows.
    let begun = watchers.begin_read(3, (A, NODE)).unwrap();
    for index in 0..=WATCH_CHANGES_KEPT as u64 {
        watchers.applied(9 + index, 3, rows(&[6]));
    }
    assert_eq!(watchers.end_read(3, A, begun, &[4], at(1)), None);
    assert_eq!(watchers.begin_read(2, (A, NODE)), None, "another term");
    assert_eq!(
        watchers.begin_read(3, (Watcher { session: 11, ..A }, NODE)),
        None,
        "another session"
    );
}

#[test]
fn a_reply_waits_for_all_who_were_told_but_its_proposer() {
    let watchers = both();
    reads(&watchers, A, &[5, 6]);
    reads(&watchers, B, &[5]);
    watchers.propose(1, A);
    watchers.applied(7, 1, rows(&[5, 6, 9]));
    watchers.proposed(1);
    let within = MayReply::Within(WATCH_GIVEN - Duration::from_millis(2));
    assert_eq!(watchers.may_reply(3, 7, at(2)), within);
    // Who proposed it is told as well, when there is time.
    assert_eq!(watchers.news(A), news(2, Some(&[5, 6])).map(|news| (news, false)));
    assert_eq!(watchers.news(B), news(1, Some(&[5])).map(|news| (news, true)));
    // A call that has not heard of it frees nobody.
    watchers.call(3, (B, NODE), 0, false, at(3));
    assert!(matches!(watchers.may_reply(3, 7, at(3)), MayReply::Within(_)));
    watchers.call(3, (B, NODE), 1, false, at(4));
    let own = MayReply::Now(Touched::Marks(vec![5, 6]));
    assert_eq!(watchers.may_reply(3, 7, at(4)), own);
    // The reply to its proposer may be on its way still.
    watchers.applied(8, 2, rows(&[5]));
    assert!(matches!(watchers.may_reply(3, 8, at(4)), MayReply::Within(_)));
    watchers.propose(4, A);
    watchers.applied(13, 4, rows(&[6]));
    assert_eq!(watchers.may_reply(3, 13, at(4)), MayReply::Now(Touched::Marks(vec![6])));
    watchers.call(3, (A, NODE), 2, false, at(4));
    assert_eq!(watchers.may_reply(3, 8, at(4)), MayReply::Now(Touched::Nothing));
    // Interest is over once it was heard, and no earlier: nobody waits for the same row again.
    watchers.applied(14, 2, rows(&[5]));
    assert_eq!(watchers.may_reply(3, 14, at(4)), MayReply::Now(Touched::Nothing));
    // The same request again: everything of before must have been heard.
    reads(&watchers, B, &[4]);
    watchers.applied(9, 3, rows(&[4]));
    // It may show what it has not heard of yet: neither does another change of it count as heard.
    watchers.applied(11, 4, rows(&[4]));
    assert!(matches!(watchers.may_reply(3, 11, at(5)), MayReply::Within(_)));
    watchers.propose(5, B);
    watchers.applied(12, 5, rows(&[4]));
    assert_eq!(watchers.may_reply(3, 12, at(5)), MayReply::Now(Touched::Marks(vec![4])));
    watchers.propose(1, A);
    watchers.applied(10, 1, Changed::Before);
    assert!(matches!(watchers.may_reply(3, 10, at(5)), MayReply::Within(_)));
    watchers.call(3, (B, NODE), 2, false, at(6));
    assert_eq!(watchers.may_reply(3, 10, at(6)), MayReply::Now(Touched::All));
    assert_eq!(watchers.may_reply(3, 11, at(6)), MayReply::Now(Touched::Nothing));
    assert!(watchers.inner.lock().unheard.is_empty());
}

#[test]
fn who_asks_is_told_what_it_has_not_heard_and_waits_for_those_who_have_not() {
    let watchers = both();
    reads(&watchers, A, &[5, 6]);
    reads(&watchers, B, &[5, 7]);
    assert_eq!(watchers.unheard(A), Touched::Nothing);
    assert!(watchers.begin_wait(A, &[5, 6, 7]).is_empty());
    watchers.applied(7, 1, rows(&[5]));
    watchers.applied(8, 2, rows(&[7]));
    // Whatever comes to A next is not older than that; a refusal is no change, and tells it as well.
    assert_eq!(watchers.unheard(A), Touched::News { number: 1, marks: vec![5] });
    assert_eq!(watchers.unheard(B), Touched::News { number: 2, marks: vec![5, 7] });
    // A may show B's row as it is when B cannot show it as it was; its own news come with the answer.
    let mut waits = watchers.begin_wait(A, &[5]);
    assert_eq!(waits, [(B, 1)]);
    assert!(watchers.news(B).is_some_and(|(_, is_urgent)| is_urgent));
    assert!(matches!(watchers.wait(3, &mut waits, at(2)), Ok(Some(_))));
    assert!(watchers.begin_wait(A, &[6]).is_empty(), "nothing of that changed");
    watchers.call(3, (B, NODE), 1, false, at(3));
    assert_eq!(watchers.wait(3, &mut waits, at(3)), Ok(None));
    assert_eq!(watchers.wait(2, &mut waits, at(3)), Err(LeadsNoMore));
    // One that does not hear is waited for no longer than it believes anything.
    let mut waits = watchers.begin_wait(B, &[5]);
    assert_eq!(waits, [(A, 1)]);
    assert!(matches!(watchers.wait(3, &mut waits, at(4)), Ok(Some(_))));
    // A refusal waits as well.
    watchers.propose(9, B);
    watchers.applied(9, 9, rows(&[]));
    assert!(matches!(watchers.may_reply(3, 9, at(4)), MayReply::Within(_)));
    let over = at(WATCH_GIVEN.as_millis() as u64);
    assert_eq!(watchers.wait(3, &mut waits, over), Ok(None));
    assert!(matches!(watchers.may_reply(3, 9, over), MayReply::Now(_)));
    assert_eq!(watchers.unheard(A), Touched::All, "it is not known any more");
}

#[test]
fn who_is_not_heard_of_or_does_not_listen_is_passed_over() {
    let watchers = both();
    reads(&watchers, B, &[5]);
    watchers.applied(7, 1, rows(&[5]));
    // It calls, but never says that it has heard.
    for millis in (0..WATCH_GIVEN.as_millis() as u64).step_by(500) {
        watchers.call(3, (B, NODE), 0, false, at(millis));
        assert!(matches!(watchers.may_reply(3, 7, at(millis)), MayReply::Within(_)));
    }
    let over = at(WATCH_GIVEN.as_millis() as u64);
    assert_eq!(watchers.may_reply(3, 7, over), MayReply::Now(Touched::Nothing));
    assert_eq!(watchers.call(3, (B, NODE), 1, false, over), Called::Stranger);
    assert_eq!(watchers.call(3, (A, NODE), 0, false, over), Called::Stranger, "nor was this one");
}

#[test]
fn who_hears_and_is_told_more_all_the_time_is_not_passed_over() {
    let watchers = both();
    for number in 1..100 {
        reads(&watchers, B, &[5]);
        watchers.applied(number, u128::from(number), rows(&[5]));
        let now = at(100 * number);
        assert_eq!(watchers.call(3, (B, NODE), number - 1, false, now), Called::Known);
        assert!(matches!(watchers.may_reply(3, number, now), MayReply::Within(_)), "{number}");
    }
}

#[test]
fn a_leader_of_a_new_term_replies_when_all_of_before_have_called() {
    let watchers = both();
    watchers.applied(7, 1, rows(&[5]));
    watchers.began(4, at(100));
    assert_eq!(watchers.may_reply(3, 7, at(100)), MayReply::Never, "of the term before");
    assert!(matches!(watchers.may_reply(4, 8, at(100)), MayReply::Within(_)), "not known yet");
    watchers.may_remember(4, &BTreeSet::from([1, 2]));
    watchers.call(4, (A, NODE), 0, true, at(101));
    assert!(matches!(watchers.may_reply(4, 8, at(101)), MayReply::Within(_)));
    // The other's mount has ended.
    watchers.may_remember(4, &BTreeSet::from([1]));
    assert_eq!(watchers.may_reply(4, 8, at(102)), MayReply::Now(Touched::Nothing));
    watchers.began(5, at(200));
    watchers.may_remember(5, &BTreeSet::from([1, 2]));
    let over = at(200).plus(WATCH_GIVEN);
    assert_eq!(watchers.may_reply(5, 9, over), MayReply::Now(Touched::Nothing));
    watchers.ended(6);
    assert_eq!(watchers.may_reply(5, 9, over), MayReply::Never);
    // Old news of a term do not end it.
    watchers.began(6, over);
    watchers.ended(6);
    watchers.may_remember(6, &BTreeSet::new());
    assert_eq!(watchers.may_reply(6, 10, over), MayReply::Now(Touched::Nothing));
}

#[test]
fn interest_and_news_are_bounded() {
    let watchers = both();
    let marks: Vec<Mark> = (0..WATCH_MARKS_MAX as u64 + 10).collect();
    for marks in marks.chunks(WATCH_RESTS_ON_MAX) {
        reads(&watchers, A, marks);
    }
    assert_eq!(told(&watchers, A), news(10, Some(&marks[..10])), "the oldest is taken back");
    watchers.call(3, (A, NODE), 10, false, at(2));
    assert_eq!(watchers.inner.lock().interest.len(), WATCH_MARKS_MAX);
    for (index, marks) in (7..).zip(marks.chunks(1_000).take(WATCH_NEWS_MAX / 1_000 + 2)) {
        watchers.applied(index, 1, rows(marks));
    }
    assert_eq!(told(&watchers, A).unwrap().marks, None, "everything");
    assert!(watchers.inner.lock().interest.is_empty());
    // Entries of which it is not known any more who was told wait for all.
    reads(&watchers, B, &[1]);
    watchers.applied(1_000, 1, rows(&[1]));
    for index in 1_001..1_001 + WATCH_CHANGES_KEPT as u64 {
        reads(&watchers, B, &[1]);
        watchers.applied(index, 1, rows(&[1]));
    }
    let first = told(&watchers, B).unwrap().number;
    watchers.call(3, (A, NODE), u64::MAX, false, at(3));
    assert!(matches!(watchers.may_reply(3, 1_000, at(3)), MayReply::Within(_)));
    watchers.call(3, (B, NODE), first, false, at(4));
    while let Some(News { number, marks: Some(marks) }) = told(&watchers, B)
        && !marks.is_empty()
    {
        watchers.call(3, (B, NODE), number, false, at(4));
    }
    assert_eq!(watchers.may_reply(3, 1_000, at(4)), MayReply::Now(Touched::All));
}
