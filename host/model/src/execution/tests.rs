//! Logs as hosts write them, and as they must not be; and functions that are run over them again.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{CallError, CallId, Digest, Name, Reply, ResultDocument, Status};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn id(text: &str) -> CallId {
    CallId::parse(text).unwrap()
}

fn json(text: &str) -> Reply {
    Reply { media_type: "application/json".to_owned(), body: Bytes::copy_from_slice(text.as_bytes()) }
}

fn started() -> Event {
    let headers = vec![("x-trace".to_owned(), "7".to_owned())];
    Event::Started(Started { run: 1, seed: u64::MAX, input: json("{}"), headers })
}

fn call(function: &str, step: u32) -> StepCall {
    StepCall { function: name(function), id: id(&format!("order-7.{step}")), payload: json("1") }
}

fn completed(step: u32) -> Event {
    let result =
        ResultDocument::new(Status::Ok, id("order-7"), "text/plain".to_owned(), Bytes::from_static(b"done\n\xff"));
    Event::CallCompleted { step, result: Box::new(result) }
}

fn received(text: &str, id_: &str) -> Event {
    Event::EventReceived(Received { id: id(id_), name: name(text), payload: json("[]") })
}

fn awaited(step: u32, text: &str, patience_ms: Option<u64>) -> Event {
    Event::EventAwaited { step, name: name(text), patience_ms, due_ms: patience_ms.map(|ms| ms + 1_000) }
}

fn timer(step: u32, ms: u64) -> Event {
    Event::TimerSet { step, pause: Pause::For(ms), due_ms: ms + 1_000 }
}

fn log(events: Vec<Event>) -> Log {
    let facts = events.into_iter().zip(1..).map(|(event, at)| Logged { at_ms: 1_000 * at, event });
    Log::of(facts.collect()).unwrap()
}

/// As scripts write them.
fn entries(events: &[Event]) -> Vec<(u64, Record)> {
    let mut before = String::new();
    let mut entry = |(event, position): (&Event, u64)| {
        let mut record = event.to_record();
        record.push(("at".to_owned(), (position * 1_000).to_string().into()));
        before = chain(&before, record.iter().map(|(name, value)| (&**name, &**value)));
        record.push(("chain".to_owned(), before.clone().into()));
        (position, record)
    };
    events.iter().zip(1..).map(&mut entry).collect()
}

fn every_kind() -> Vec<Event> {
    vec![
        started(),
        Event::CallScheduled { step: 1, call: call("reserve", 1) },
        received("payment", "p1"),
        completed(1),
        timer(2, 50),
        Event::TimerFired { step: 2 },
        Event::TimerSet { step: 3, pause: Pause::Until(99), due_ms: 99 },
        Event::TimerFired { step: 3 },
        awaited(4, "payment", Some(5)),
        awaited(5, "payment", None),
        received("payment", "p2"),
        Event::Emitted { step: 6, name: name("paid"), payload: json("2") },
        Event::MovedToDigest { digest: Digest::of(b"two") },
        Event::Completed(json("3")),
    ]
}

#[test]
fn a_log_is_read_as_it_was_written() {
    let all = every_kind();
    let read = Log::read(entries(&all), Some(all.len() as u64)).unwrap();
    assert_eq!(read.facts().iter().map(|fact| fact.event.clone()).collect::<Vec<_>>(), all);
    assert_eq!((read.facts()[3].at_ms, read.digest()), (4_000, Some(Digest::of(b"two"))));
    assert_eq!((read.started().seed, read.end()), (u64::MAX, all.last()));
    for end in [Event::Failed(CallError { code: "no-stock".into(), message: "é\n".into() }), Event::Cancelled] {
        let read = Log::read(entries(&[started(), end.clone()]), None).unwrap();
        assert_eq!(read.end(), Some(&end));
    }
}

#[test]
fn a_log_knows_when_a_component_was_left() {
    let moved = |to: &str| Event::MovedToDigest { digest: Digest::of(to.as_bytes()) };
    let left = |events: &[Event], component: &str| {
        Log::read(entries(events), None).unwrap().left(Digest::of(component.as_bytes()))
    };
    let there_and_back = [started(), moved("one"), moved("two"), moved("one"), moved("two")];
    assert_eq!(left(&there_and_back[..2], "one"), None);
    assert_eq!(left(&there_and_back[..3], "one"), Some(3_000));
    assert_eq!(left(&there_and_back, "one"), Some(5_000));
    assert_eq!((left(&there_and_back, "two"), left(&there_and_back, "three")), (Some(4_000), None));
}

#[test]
fn a_log_that_was_tampered_with_is_refused_and_the_place_is_named() {
    let whole = entries(&every_kind());
    let length = whole.len() as u64;
    let cut_at_the_end = whole[..5].to_vec();
    assert_eq!(Log::read(cut_at_the_end, Some(length)), Err(LogError::Length { found: 5, said: length }));
    let mut without_one = whole.clone();
    without_one.remove(3);
    assert_eq!(Log::read(without_one.clone(), Some(length)), Err(LogError::Gap { after: 3, found: 5 }));
    // As if it had never been there.
    let closed_up = without_one.into_iter().zip(1..).map(|((_, record), position)| (position, record));
    assert_eq!(Log::read(closed_up, None), Err(LogError::Chain { position: 4 }));
    let mut swapped = whole.clone();
    swapped.swap(4, 5);
    assert!(matches!(Log::read(swapped, Some(length)), Err(LogError::Gap { after: 4, found: 6 })));
    let (four, five) = (whole[4].1.clone(), whole[5].1.clone());
    let mut exchanged = whole.clone();
    (exchanged[4].1, exchanged[5].1) = (five, four);
    assert_eq!(Log::read(exchanged, Some(length)), Err(LogError::Chain { position: 5 }));
    assert_eq!(Log::read(Vec::new(), None), Err(LogError::Empty));
    // Whoever knows the rule can chain all of it anew, and then only the execution knows better.
    let link =
        |entries: &[(u64, Record)]| String::from_utf8_lossy(&entries.last().unwrap().1.last().unwrap().1).into_owned();
    assert!(Log::read_to(whole.clone(), (length, &link(&whole))).is_ok());
    let later: Vec<(u64, Record)> = entries(&[started(), Event::Cancelled]);
    let said = link(&entries(&[started(), Event::Failed(CallError { code: "x".into(), message: "y".into() })]));
    assert_eq!(Log::read_to(later, (2, &said)), Err(LogError::Rewritten));
    for (position, record) in &whole {
        for field in 0..record.len() {
            let mut changed = whole.clone();
            changed[*position as usize - 1].1[field].1 = Bytes::from_static(b"0");
            assert_eq!(Log::read(changed, Some(length)), Err(LogError::Chain { position: *position }), "field {field}");
            let mut renamed = whole.clone();
            renamed[*position as usize - 1].1[field].0.push('x');
            assert_eq!(Log::read(renamed, Some(length)), Err(LogError::Chain { position: *position }), "field {field}");
        }
    }
}

#[test]
fn what_cannot_stand_there_is_refused_although_its_chain_is_right() {
    let table: [(Vec<Event>, &str); 9] = [
        (vec![timer(1, 5)], "position 1 of the log cannot be: a log begins with `started`"),
        (vec![started(), started()], "a second time"),
        (vec![started(), timer(2, 5)], "step 2 after step 0"),
        (vec![started(), timer(1, 5), timer(1, 5)], "step 1 after step 1"),
        (vec![started(), Event::TimerFired { step: 1 }], "does not wait for it"),
        (vec![started(), timer(1, 5), completed(1)], "does not wait for it"),
        (vec![started(), awaited(1, "a", None), Event::TimerFired { step: 1 }], "does not wait for it"),
        (vec![started(), timer(1, 5), Event::TimerFired { step: 1 }, Event::TimerFired { step: 1 }], "position 4"),
        (vec![started(), Event::Cancelled, received("a", "1")], "`event-received` after the end"),
    ];
    for (events, expected) in table {
        let error = Log::read(entries(&events), None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let mut odd =
        vec![("event".to_owned(), Bytes::from_static(b"blessed")), ("at".to_owned(), Bytes::from_static(b"1"))];
    let link = chain("", odd.iter().map(|(name, value)| (&**name, &**value)));
    odd.push(("chain".to_owned(), link.into()));
    let error = Log::read(vec![(1, odd)], None).unwrap_err().to_string();
    assert!(error.contains("\"blessed\" is no event of a log"), "{error}");
}

#[test]
fn the_log_answers_as_far_as_it_goes_and_what_is_new_is_collected() {
    let mut replay = Replay::new(log(vec![
        started(),
        Event::CallScheduled { step: 1, call: call("reserve", 1) },
        completed(1),
        timer(2, 50),
    ]));
    assert_eq!(replay.now_ms(), 1_000);
    assert!(matches!(replay.ask(&Ask::Call(call("reserve", 1)), 9_000), Ok(Answer::Called(_))));
    assert_eq!((replay.now_ms(), replay.is_past_log()), (3_000, false));
    assert_eq!(replay.ask(&Ask::Sleep(Pause::For(50)), 9_000), Ok(Answer::Wait));
    assert!(replay.is_past_log());
    assert_eq!(replay.ask(&Ask::Emit(name("late"), json("1")), 9_000), Ok(Answer::Told));
    assert_eq!(replay.ask(&Ask::Sleep(Pause::For(7)), 9_000), Ok(Answer::Wait));
    let fresh = replay.into_fresh();
    let emitted = Event::Emitted { step: 3, name: name("late"), payload: json("1") };
    assert_eq!(fresh, [emitted, Event::TimerSet { step: 4, pause: Pause::For(7), due_ms: 9_007 }]);
}

#[test]
fn an_event_may_come_before_it_is_waited_for_and_too_late() {
    let first = |events: Vec<Event>| {
        let mut all = vec![started()];
        all.extend(events);
        Replay::new(log(all)).ask(&Ask::Event(name("payment"), Some(5)), 0).unwrap()
    };
    let came = |id_: &str| Answer::Event(Received { id: id(id_), name: name("payment"), payload: json("[]") });
    let (wait, fired) = (awaited(1, "payment", Some(5)), Event::TimerFired { step: 1 });
    let one = || received("payment", "1");
    let table = [
        (vec![], Answer::Wait),
        (vec![one()], came("1")),
        (vec![one(), wait.clone(), received("payment", "2")], came("1")),
        (vec![wait.clone(), received("refund", "0"), one()], came("1")),
        (vec![wait.clone(), one(), fired.clone()], came("1")),
        (vec![wait.clone(), fired.clone(), one()], Answer::Woken),
        (vec![wait.clone(), fired], Answer::Woken),
        (vec![wait], Answer::Wait),
    ];
    for (events, expected) in table {
        assert_eq!(first(events.clone()), expected, "{events:?}");
    }
    // What came too late for one wait is there for the next.
    let mut replay =
        Replay::new(log(vec![started(), awaited(1, "payment", Some(5)), Event::TimerFired { step: 1 }, one()]));
    let ask = Ask::Event(name("payment"), Some(5));
    assert_eq!(replay.ask(&ask, 0), Ok(Answer::Woken));
    assert_eq!(replay.ask(&ask, 0), Ok(came("1")));
    assert_eq!(replay.ask(&ask, 0), Ok(Answer::Wait));
}

#[test]
fn the_first_step_that_differs_is_named() {
    let logged =
        || log(vec![started(), Event::CallScheduled { step: 1, call: call("reserve", 1) }, completed(1), timer(2, 50)]);
    let diverges = |asks: &[Ask]| {
        let mut replay = Replay::new(logged());
        let first = asks.iter().find_map(|ask| replay.ask(ask, 0).err());
        first.or_else(|| replay.end().err()).map(|divergence| divergence.to_string())
    };
    let right = Ask::Call(call("reserve", 1));
    let other = Ask::Call(StepCall { payload: json("2"), ..call("reserve", 1) });
    let table = [
        (vec![right.clone(), Ask::Sleep(Pause::For(50))], None),
        (
            vec![Ask::Sleep(Pause::For(50))],
            Some(
                "step 1 is a call of reserve with 1 bytes of application/json in the log, and the function asks for a sleep of 50 ms",
            ),
        ),
        (
            vec![other],
            Some(
                "and the function asks for a call of reserve with 1 bytes of application/json that has other contents",
            ),
        ),
        (
            vec![right.clone(), Ask::Sleep(Pause::For(51))],
            Some("step 2 is a sleep of 50 ms in the log, and the function asks for a sleep of 51 ms"),
        ),
        (vec![right.clone(), Ask::Event(name("payment"), None)], Some("a wait for the event payment")),
        (vec![right], Some("step 2 is a sleep of 50 ms in the log, and the function asks for nothing more")),
    ];
    for (asks, expected) in table {
        match (diverges(&asks), expected) {
            (None, None) => {}
            (Some(said), Some(expected)) if said.contains(expected) => {}
            (said, _) => panic!("{asks:?}: {said:?}"),
        }
    }
}

/// A small function: what it asks for depends on nothing but what it was answered.
fn run(replay: &mut Replay, program: &[u8]) -> Vec<Answer> {
    let mut learned = 0_usize;
    let mut answers = Vec::new();
    for (byte, step) in program.iter().zip(1..) {
        let kind = (usize::from(*byte) + learned) % 5;
        let ask = match kind {
            0 => Ask::Call(call("reserve", step)),
            1 => Ask::Sleep(Pause::For(u64::from(*byte))),
            2 => Ask::Event(name("payment"), None),
            3 => Ask::Event(name("payment"), Some(u64::from(*byte))),
            _ => Ask::Emit(name("told"), json("1")),
        };
        let answer = replay.ask(&ask, 1_000).expect("it asks for the same again");
        learned += match &answer {
            Answer::Wait => return answers,
            Answer::Called(_) => 1,
            Answer::Woken => 2,
            Answer::Event(received) => received.id.as_str().len(),
            Answer::Told => 0,
        };
        answers.push(answer);
    }
    answers
}

proptest! {
    /// Whatever comes in which order: each replay learns what the one before it learned, and then more.
    #[test]
    fn a_replay_never_takes_back_an_answer(program in proptest::collection::vec(any::<u8>(), 1..24), come in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut facts = vec![Logged { at_ms: 1, event: started() }];
        let mut before: Vec<Answer> = Vec::new();
        let mut come = come.into_iter();
        loop {
            let mut replay = Replay::new(Log::of(facts.clone()).expect("a log that a host would write"));
            let answers = run(&mut replay, &program);
            prop_assert_eq!(&answers[..before.len()], &before[..]);
            before = answers;
            facts.extend(replay.into_fresh().into_iter().map(|event| Logged { at_ms: 1, event }));
            let Some(byte) = come.next() else { break };
            let answered: Vec<u32> = facts.iter().filter_map(|fact| fact.event.answers()).collect();
            let open: Vec<Event> = facts.iter().filter_map(|fact| match &fact.event {
                Event::CallScheduled { step, .. } if !answered.contains(step) => Some(completed(*step)),
                Event::TimerSet { step, .. } | Event::EventAwaited { step, due_ms: Some(_), .. } if !answered.contains(step) =>
                    Some(Event::TimerFired { step: *step }),
                _ => None,
            }).collect();
            let event = match open.get(usize::from(byte) % (open.len() + 1)) {
                Some(event) => event.clone(),
                None => received("payment", &"p".repeat(usize::from(byte % 5) + 1)),
            };
            facts.push(Logged { at_ms: 1, event });
        }
    }
}

#[test]
fn a_history_that_went_through_a_file_is_the_same_log() {
    let events = every_kind();
    let of = || {
        History::new(&"acme/order".parse().unwrap(), &id("order-7"), "completed", events.len() as u64, entries(&events))
    };
    let text = serde_json::to_string(&of()).unwrap();
    let read: History = serde_json::from_str(&text).unwrap();
    assert_eq!(read, of());
    assert_eq!(read.log().unwrap(), Log::read(entries(&events), None).unwrap());
    let cut: History = serde_json::from_str(&text.replacen("\"at\":\"3000\"", "\"at\":\"3001\"", 1)).unwrap();
    assert_eq!(cut.log(), Err(HistoryError::Log(LogError::Chain { position: 3 })));
    let other: History = serde_json::from_str(&text.replacen("_base64\":\"", "_base64\":\"!", 1)).unwrap();
    assert!(matches!(other.log(), Err(HistoryError::Field { position: 4, .. })), "{:?}", other.log());
}
