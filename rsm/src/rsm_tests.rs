#![allow(clippy::unwrap_used, reason = "a test, all of it")]

use yfs_rpc::marshall::UnmarshalError;

use super::*;
use crate::RsmClient;
use crate::replica::RENEWAL;

const PATIENCE: Duration = Duration::from_secs(20);
const COUNT: Procedure<(), u64> = Procedure::new(0x100);

struct Counter(u64);

impl StateMachine for Counter {
    type Effect = ();

    fn marshal_state(&self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    fn unmarshal_state(&mut self, state: &[u8]) -> Result<(), UnmarshalError> {
        self.0 = yfs_rpc::marshall::decode(state)?;
        Ok(())
    }
}

#[test]
fn a_view_whose_numbers_come_to_their_end_is_followed_by_one_of_the_same_members() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { dir: dir.path().into(), ..Options::new("0", "0") };
    let rsm = Rsm::new(options, Counter(0)).unwrap();
    rsm.reg(COUNT, |counter: &mut Counter, (): ()| {
        counter.0 += 1;
        (0, counter.0)
    });
    rsm.start().unwrap();
    let client = RsmClient::connect(&[rsm.me().to_owned()], PATIENCE).unwrap();
    assert_eq!(client.call(COUNT, (), PATIENCE), Ok((0, 1)));
    // As after very many requests; with none left in this view.
    for (seqno, n) in [(RENEWAL, 2), (u32::MAX - 1, 3)] {
        let before = {
            let mut state = rsm.0.state.lock();
            let vid = state.replica.vid();
            state.replica.installed(Viewstamp { vid, seqno });
            state.log_in_sync(&rsm.0.journal, vid, true);
            vid
        };
        assert_eq!(client.call(COUNT, (), PATIENCE), Ok((0, n)));
        let deadline = now() + PATIENCE;
        while rsm.0.state.lock().replica.in_view_change() || rsm.0.state.lock().replica.vid() == before {
            assert!(now() < deadline, "no view comes");
            rt::time::sleep(Duration::from_millis(5));
        }
        assert_eq!(rsm.0.state.lock().replica.members(), [rsm.me()]);
    }
    assert_eq!(client.call(COUNT, (), PATIENCE), Ok((0, 4)));
    assert!(rsm.0.state.lock().replica.last_myvs().seqno < 10);
    assert!(rsm.shutdown());
}
