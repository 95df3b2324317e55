//! Machines that enrol themselves with a token.

use drover_wire::agent::{Enrolled, Enrolment};
use drover_wire::client::{AgentSummary, NewToken, Secret};
use drover_wire::route::{agents, clients};
use drover_wire::{AGENT_NAME_HEADER, Code};
use ureq::SendBody;

use crate::agent::{Agent, hello};
use crate::house::House;
use crate::peer::{Answer, Peer};

/// What makers write on machines.
const SERIAL: &str = "serial:VF7110B1-2253-D004E000";

/// A machine with a token.
struct Machine(Peer);

impl Machine {
    fn new(house: &House, token: &str) -> Self {
        Self(Peer::new(house.agents, &format!("Bearer {token}")))
    }

    #[track_caller]
    fn ask(&self, name: &str, hardware: &str) -> Answer {
        let body = serde_json::to_vec(&Enrolment { hardware: hardware.to_owned() }).unwrap();
        let headers = [(AGENT_NAME_HEADER, name)];
        self.0.send("POST", &agents::ENROL.path(&[]), &headers, SendBody::from_reader(&mut &body[..]))
    }

    #[track_caller]
    fn hello(&self, name: &str) -> Answer {
        let body = serde_json::to_vec(&hello(&[])).unwrap();
        let headers = [(AGENT_NAME_HEADER, name)];
        self.0.send("POST", &agents::HELLO.path(&[]), &headers, SendBody::from_reader(&mut &body[..]))
    }
}

fn token(house: &House) -> String {
    let new = NewToken { note: "boards".to_owned() };
    house.client().0.post(&clients::AGENT_TOKEN.path(&[]), &new).value::<Secret>().secret
}

fn agent(house: &House, enrolled: &Enrolled) -> Agent {
    let pair = format!("{}:{}", enrolled.agent, enrolled.password);
    Agent(Peer::new(house.agents, &format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes()))))
}

#[test]
fn a_machine_is_the_same_agent_each_time_it_enrols_and_its_last_password_goes() {
    let mut house = House::start();
    let machine = Machine::new(&house, &token(&house));
    let first: Enrolled = machine.ask("board", SERIAL).value();
    assert_eq!(first.name, "board");
    assert_eq!(agent(&house, &first).hello(&[]).agent, first.agent);

    // It has forgotten all, and is called otherwise now.
    let second: Enrolled = machine.ask("other", SERIAL).value();
    assert_eq!((second.agent, &*second.name), (first.agent, "board"));
    assert_ne!(second.password, first.password);
    agent(&house, &second).hello(&[]);
    agent(&house, &first).0.post(&agents::HELLO.path(&[]), &hello(&[])).refused(Code::Unauthorized);

    let listed: Vec<AgentSummary> = house.client().0.get(&clients::AGENTS.path(&[])).value();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].hardware.as_deref(), Some(SERIAL));

    house.crash_and_restart();
    agent(&house, &second).hello(&[]);
    agent(&house, &first).0.post(&agents::HELLO.path(&[]), &hello(&[])).refused(Code::Unauthorized);
}

#[test]
fn a_token_makes_an_agent_of_each_machine_and_another_token_the_same_one() {
    let house = House::start();
    let one = Machine::new(&house, &token(&house));
    let other = Machine::new(&house, &token(&house));
    let first: Enrolled = one.ask("a", "serial:1").value();
    let second: Enrolled = one.ask("b", "address:52:54:00:12:34:56").value();
    agent(&house, &first).hello(&[]);
    agent(&house, &second).hello(&[]);
    assert_ne!(first.agent, second.agent);
    // As a card does that was made with a new token.
    let again: Enrolled = other.ask("a", "serial:1").value();
    assert_eq!((again.agent, &*again.name), (first.agent, "a"));
    agent(&house, &again).hello(&[]);
    agent(&house, &first).0.post(&agents::HELLO.path(&[]), &hello(&[])).refused(Code::Unauthorized);
    // A name is one agent's, whatever the token.
    for machine in [&one, &other] {
        assert!(
            machine.ask("a", "serial:2").refused(Code::Forbidden).message.contains("the name a is taken")
        );
    }
}

#[test]
fn what_an_operator_made_for_a_machine_s_agent_stays_when_it_enrols_anew() {
    let house = House::start();
    let machine = Machine::new(&house, &token(&house));
    let first: Enrolled = machine.ask("board", SERIAL).value();
    let made: Secret = house.client().0.post(&clients::PASSWORD.path(&[&first.agent]), &()).value();
    machine.ask("board", SERIAL).value::<Enrolled>();
    agent(&house, &Enrolled { password: made.secret, ..first }).hello(&[]);
}

#[test]
fn a_token_alone_does_not_speak_for_a_machine_s_agent_and_still_does_for_others() {
    let house = House::start();
    let machine = Machine::new(&house, &token(&house));
    machine.ask("board", SERIAL).value::<Enrolled>();
    let refused = machine.hello("board").refused(Code::Forbidden);
    assert!(refused.message.contains("its own password"), "{refused}");

    assert_eq!(machine.hello("plain").status, 200);
    // And what has no machine is not taken over by one.
    machine.ask("plain", SERIAL).value::<Enrolled>();
    machine.ask("plain", "serial:2").refused(Code::Forbidden);
    assert_eq!(machine.hello("plain").status, 200);
}

#[test]
fn nobody_enrols_without_a_token_a_name_and_something_to_be_told_by() {
    let house = House::start();
    let token = token(&house);
    let machine = Machine::new(&house, &token);
    for wrong in ["", "serial: 4711", "s\u{e9}rial", "a\nb", &"x".repeat(129)] {
        let refused = machine.ask("board", wrong).refused(Code::BadRequest);
        assert!(refused.message.contains("visible ASCII"), "{refused}");
    }
    machine.ask("no name at all", SERIAL).refused(Code::BadRequest);
    machine
        .0
        .post(&agents::ENROL.path(&[]), &Enrolment { hardware: SERIAL.to_owned() })
        .refused(Code::BadRequest);
    Machine::new(&house, &format!("{token}0")).ask("board", SERIAL).refused(Code::Unauthorized);
    Machine::new(&house, &house.token()).ask("board", SERIAL).refused(Code::Unauthorized);

    let enrolled: Enrolled = machine.ask("board", SERIAL).value();
    let again =
        agent(&house, &enrolled).0.post(&agents::ENROL.path(&[]), &Enrolment { hardware: SERIAL.to_owned() });
    again.refused(Code::Unauthorized);
}
