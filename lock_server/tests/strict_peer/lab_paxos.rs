//! A lab node's acceptor: what it promises, accepts and logs, and where it aborts.
//!
//! It is as careless as the C++ one: it votes in whatever instance it is asked in, and takes any value.

use std::collections::BTreeMap;

use crate::client::Answer;
use crate::wire::{Dec, Enc, OK, garbage};

/// A proposal's number, and whose it is.
pub(crate) type Prop = (u32, String);

pub(crate) struct Acceptor {
    me: String,
    pub(crate) n_h: Prop,
    n_a: Prop,
    v_a: String,
    pub(crate) instance_h: u32,
    pub(crate) values: BTreeMap<u32, String>,
    /// The log's text.
    pub(crate) log: String,
}

pub(crate) fn members(value: &str) -> Vec<String> {
    value.split_whitespace().map(str::to_owned).collect()
}

pub(crate) fn value(members: &[String]) -> String {
    members.iter().flat_map(|m| [m.as_str(), " "]).collect()
}

impl Acceptor {
    pub(crate) fn new(me: &str, first: bool) -> Acceptor {
        let none = || (0, me.to_owned());
        let mut acceptor = Acceptor {
            me: me.to_owned(),
            n_h: none(),
            n_a: none(),
            v_a: String::new(),
            instance_h: 0,
            values: BTreeMap::new(),
            log: String::new(),
        };
        if first {
            acceptor.commit(1, me);
        }
        acceptor
    }

    pub(crate) fn preparereq(&mut self, args: &[u8]) -> Answer {
        let mut dec = Dec::new("preparereq", args);
        let (_src, instance, n) = (dec.text(), dec.u32(), (dec.u32(), dec.text()));
        dec.end();
        let mut n_a = (garbage(), String::new());
        let (mut old, mut accept, mut v_a) = (false, false, String::new());
        if instance <= self.instance_h {
            old = true;
            v_a = self.values.get(&instance).cloned().unwrap_or_default();
        } else if n > self.n_h {
            accept = true;
            self.log += &format!("propseen {} {}\n", n.0, n.1);
            self.n_h = n;
            (n_a, v_a) = (self.n_a.clone(), self.v_a.clone());
        }
        (OK, Enc::new().flag(old).flag(accept).u32(n_a.0).text(&n_a.1).text(&v_a).0)
    }

    pub(crate) fn acceptreq(&mut self, args: &[u8]) -> Answer {
        let mut dec = Dec::new("acceptreq", args);
        let (_src, _instance, n, v) = (dec.text(), dec.u32(), (dec.u32(), dec.text()), dec.text());
        dec.end();
        let accept = n >= self.n_h;
        if accept {
            self.log += &format!("accepted {} {} {v}\n", n.0, n.1);
            (self.n_a, self.v_a) = (n, v);
        }
        (OK, Enc::new().flag(accept).0)
    }

    /// The value to be committed, if there is one.
    pub(crate) fn decidereq(&mut self, args: &[u8]) -> (Answer, Option<(u32, String)>) {
        let mut dec = Dec::new("decidereq", args);
        let (src, instance, v) = (dec.text(), dec.u32(), dec.text());
        dec.end();
        let answer = (OK, Enc::new().u32(garbage()).0);
        if instance <= self.instance_h {
            return (answer, None);
        }
        let (me, next) = (&self.me, self.instance_h + 1);
        assert_eq!(instance, next, "C++ aborts: {src} decides {instance}, {me} waits for {next}");
        assert_eq!(v, self.v_a, "C++ aborts: {src} decides what {me} didn't accept");
        (answer, Some((instance, v)))
    }

    /// False if it is no news.
    pub(crate) fn commit(&mut self, instance: u32, v: &str) -> bool {
        if instance <= self.instance_h {
            return false;
        }
        self.values.insert(instance, v.to_owned());
        self.log += &format!("done {instance} {v}\n");
        self.instance_h = instance;
        (self.n_h, self.n_a) = ((0, self.me.clone()), (0, self.me.clone()));
        self.v_a.clear();
        true
    }

    /// Takes over another node's log, promises and all, as the lab does.
    pub(crate) fn restore(&mut self, log: &str) {
        assert!(log.ends_with('\n'), "{log:?}");
        self.log = log.to_owned();
        for line in log.lines() {
            let (kind, rest) = line.split_once(' ').expect("a record");
            let (number, rest) = rest.split_once(' ').expect("a number");
            let number = number.parse::<u32>().expect("a number");
            match kind {
                "done" => {
                    self.values.insert(number, rest.to_owned());
                    self.instance_h = number;
                    self.v_a.clear();
                    (self.n_h.0, self.n_a.0) = (0, 0);
                }
                "propseen" => self.n_h = (number, rest.to_owned()),
                "accepted" => {
                    let (node, v) = rest.split_once(' ').expect("a node and a value");
                    (self.n_a, self.v_a) = ((number, node.to_owned()), v.to_owned());
                }
                other => panic!("C++ aborts: a log record {other:?}"),
            }
        }
    }
}
