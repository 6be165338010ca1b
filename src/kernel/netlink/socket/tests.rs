use proptest::prelude::*;

use super::*;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// A refusal as the kernel writes it.
fn refusal(errno: Errno, capped: bool, text: &str) -> Vec<u8> {
    let mut original = Vec::new();
    append_message(&mut original, Header { kind: 20, flags: 5, sequence: 9 }, &[1, 2, 3, 4], |_| {}).unwrap();
    let mut fixed = (-(errno as i32)).to_ne_bytes().to_vec();
    fixed.extend_from_slice(if capped { &original[..HEADER_LEN] } else { &original });
    let flags = ACK_TLVS | if capped { CAPPED } else { 0 };
    let mut buffer = Vec::new();
    append_message(&mut buffer, Header { kind: ERROR, flags, sequence: 9 }, &fixed, |attributes| {
        attributes.u32(2, 20).text(ERROR_TEXT, text);
    })
    .unwrap();
    buffer
}

#[test]
fn a_refusal_carries_the_errno_and_the_kernels_sentence() {
    for capped in [true, false] {
        let bytes = refusal(Errno::EACCES, capped, "IPv6 is disabled on this device.");
        let message = Messages::new(&bytes).next().unwrap().unwrap();
        let error = verdict(&message).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EACCES));
        assert_eq!(error.to_string(), "EACCES: Permission denied (IPv6 is disabled on this device)");
    }
}

#[test]
fn the_end_of_a_list_may_be_an_error() {
    let done = |payload: &[u8]| verdict(&Message { kind: DONE, flags: 0, sequence: 1, payload });
    assert_eq!(done(&[]), Ok(()));
    assert_eq!(done(&0i32.to_ne_bytes()), Ok(()));
    assert_eq!(done(&(-22i32).to_ne_bytes()), Err(NetlinkError::Refused { errno: Errno::EINVAL, text: None, offset: None }));
    assert!(done(&[1, 2]).is_err());
    assert_eq!(done(&i32::MIN.to_ne_bytes()).unwrap_err().errno(), Some(Errno::UnknownErrno));
}

#[test]
fn the_kernel_refuses_with_a_sentence() {
    // No such link: the lookup needs no capability.
    let mut socket = Socket::open(Protocol::Route, soon()).unwrap();
    let nothing = |_: &Message<'_>| Ok(None::<()>);
    let name = |attributes: &mut AttributeWriter<'_>| {
        attributes.text(libc::IFLA_IFNAME, "no-such-link");
    };
    let missing = socket.query(libc::RTM_GETLINK, 0, &[0; 16], name, nothing);
    assert_eq!(missing.unwrap_err().errno(), Some(Errno::ENODEV));
    // The socket still serves.
    assert_eq!(socket.dump(libc::RTM_GETLINK, &[0; 16], |message| Ok(Some(message.kind))).unwrap()[0], libc::RTM_NEWLINK);
}

#[test]
fn a_datagram_larger_than_the_buffer_is_an_error() {
    let answers = |sequence| vec![message(40, 0, sequence, &[1; 200]), message(DONE, 0, sequence, &[0; 4])];
    assert_eq!(with_peer(answers, |socket| socket.dump(40, &[], first_byte)), Err(NetlinkError::Receive(Errno::EMSGSIZE)));
}

#[test]
fn a_long_list_is_read_into_a_longer_buffer() {
    let answers = |sequence| {
        let part = || message(40, 0, sequence, &[1; 3600]);
        vec![part(), [part(), part()].concat(), vec![part(); 9].concat(), message(DONE, 0, sequence, &[0; 4])]
    };
    let entries = with_peer(answers, |socket| {
        socket.incoming = vec![0; RECEIVE_BUFFER];
        socket.dump(40, &[], first_byte)
    });
    assert_eq!(entries, Ok(vec![1; 12]));
}

#[test]
fn one_answer_is_one_answer() {
    let answers = |sequence| vec![[message(40, 0, 99, &[9]), message(41, 0, sequence, &[7])].concat()];
    assert_eq!(with_peer(answers, |socket| socket.get(40, &[], first_byte)), Ok(7));
    let refused = |sequence| vec![message(ERROR, 0, sequence, &(-1i32).to_ne_bytes())];
    assert_eq!(with_peer(refused, |socket| socket.get(40, &[], first_byte)).unwrap_err().errno(), Some(Errno::EPERM));
    let acknowledged = |sequence| vec![message(ERROR, 0, sequence, &0i32.to_ne_bytes())];
    assert!(matches!(with_peer(acknowledged, |socket| socket.get(40, &[], first_byte)), Err(NetlinkError::Malformed(_))));
}

/// Bytes of one message.
fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut buffer = Vec::new();
    append_message(&mut buffer, Header { kind, flags, sequence }, payload, |_| {}).unwrap();
    buffer
}

/// A socket at whose other end `answers` makes datagrams out of the sequence number of each question.
fn with_peer<T>(answers: impl Fn(u32) -> Vec<Vec<u8>> + Send + 'static, test: impl FnOnce(&mut Socket) -> T) -> T {
    use std::os::unix::net::UnixDatagram;
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let peer = std::thread::spawn(move || {
        let mut question = [0; 1024];
        while let Ok(len @ 1..) = theirs.recv(&mut question) {
            let sequence = Messages::new(&question[..len]).next().unwrap().unwrap().sequence;
            for datagram in answers(sequence) {
                std::thread::sleep(Duration::from_millis(1));
                theirs.send(&datagram).unwrap();
            }
        }
    });
    let deadline = Instant::now() + Duration::from_millis(500);
    let mut socket = Socket { fd: ours.into(), deadline, sequence: 0, outgoing: Vec::new(), incoming: vec![0; 160] };
    let result = test(&mut socket);
    // An empty datagram ends the peer.
    let _ = socket.send(&[]);
    peer.join().unwrap();
    result
}

fn first_byte(message: &Message<'_>) -> Result<Option<u8>, Malformed> {
    Ok(message.payload.first().copied())
}

#[test]
fn a_list_that_changed_meanwhile_is_read_again() {
    let answers = |sequence: u32| {
        let flag = if sequence < 3 { DUMP_INTERRUPTED } else { 0 };
        vec![
            // An answer to something else, a part of two entries of which one carries the flag, and the end.
            message(40, 0, 99, &[9]),
            [message(40, flag, sequence, &[1; 4]), message(40, 0, sequence, &[2; 40])].concat(),
            message(DONE, 0, sequence, &[0; 4]),
        ]
    };
    let (entries, asked) = with_peer(answers, |socket| (socket.dump(40, &[], first_byte), socket.sequence));
    assert_eq!(entries, Ok(vec![1, 2]));
    assert_eq!(asked, 3);
}

#[test]
fn a_list_that_never_stops_changing_is_given_up_at_the_deadline() {
    let answers = |sequence| vec![message(DONE, DUMP_INTERRUPTED, sequence, &[0; 4])];
    let given_up = with_peer(answers, |socket| socket.dump(40, &[], first_byte));
    // The deadline may also pass between a question and its answer.
    assert!(matches!(given_up, Err(NetlinkError::KeptChanging | NetlinkError::Timeout)), "{given_up:?}");
}

#[test]
fn answers_that_make_no_sense_are_errors() {
    let overrun = |sequence| vec![message(NOOP, 0, sequence, &[]), message(OVERRUN, 0, sequence, &[])];
    assert_eq!(with_peer(overrun, |socket| socket.dump(40, &[], first_byte)), Err(NetlinkError::Receive(Errno::EOVERFLOW)));
    let nonsense = |_| vec![vec![1, 2, 3]];
    let error = with_peer(nonsense, |socket| socket.request(40, 0, &[], |_| {}));
    assert!(matches!(error, Err(NetlinkError::Malformed(_))), "{error:?}");
    let silence = |_| Vec::new();
    assert_eq!(with_peer(silence, |socket| socket.request(40, 0, &[], |_| {})), Err(NetlinkError::Timeout));
}

#[test]
fn waiting_ends_at_the_deadline() {
    let start = Instant::now();
    let mut socket = Socket::open(Protocol::Route, start + Duration::from_millis(30)).unwrap();
    assert_eq!(socket.receive(), Err(NetlinkError::Timeout));
    assert!(start.elapsed() >= Duration::from_millis(30));
    assert_eq!(socket.receive(), Err(NetlinkError::Timeout));
}

proptest! {
    #[test]
    fn no_verdict_makes_us_panic(kind in 0u16..5, flags in any::<u16>(), payload in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = verdict(&Message { kind, flags, sequence: 0, payload: &payload });
    }
}
