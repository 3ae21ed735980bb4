#!/usr/bin/perl
# The lab's scenarios 0 to 16, with the ./lock_server, ./lock_tester and ./rsm_tester of the current folder:
#
#     cd bin && ../test-scripts/rsm_tester.pl [-s SEED] [-k] [SCENARIO...]
#
# Without a number all of them run, one after the other; the first failure ends the run. -s repeats the random ports
# and delays of an earlier run. -k is the lab's (kill everything at a failure); here that always happens.
#
# p0 to p4 are the nodes; the script reads their views in paxos-PORT.log. A view is its members, in any order. Whatever
# the scenario, every node numbers its views 1, 2, 3 ..., no two nodes log different views under one number, and no
# node ends unless the scenario makes it.

use strict;
use warnings;
use Cwd 'abs_path';
use File::Basename;
use Getopt::Long;
use lib dirname(abs_path(__FILE__));
use Cluster;

use constant VIEW_SECONDS        => 20;    # how long a view may take to come
use constant SETTLED_SECONDS     => 2;     # how long a last view must have lasted to count as the last
use constant LOCK_TESTER_SECONDS => 600;

my @port;           # of p0 .. p4
my @pid;            # of the nodes that run
my %doomed;         # the nodes that a breakpoint will end
my $lock_tester;    # pid
my $view;           # number of the last view that the scenario has seen
my %decided;        # view number => its members, as first read in some node's log
my $scenario;
my $scenario_start;

# --- what a scenario does ---

# Starts p$i, which joins through p$first.
sub start {
    my ($i, $first) = @_;
    $first = 0 if !defined $first;
    step($i == $first ? "start p$i" : "start p$i, joining p$first");
    $pid[$i] = start_process(server_log($first, $i), './lock_server', $port[$first], $port[$i]);
    return;
}

# Starts p0 .. p(n-1) one after the other; each start makes one view.
sub start_nodes {
    my ($count) = @_;
    for my $i (0 .. $count - 1) {
        start($i);
        pause(1);
        expect_view($i + 1, [0 .. $i]);
    }
    return;
}

sub stop {
    my ($i) = @_;
    step("stop p$i");
    my $pid = $pid[$i];
    $pid[$i] = undef;
    stop_process($pid, 'TERM') or fail("p$i should have ended on SIGTERM");
    return;
}

# Sets breakpoints, node => breakpoint, by programs that run at the same time.
sub set_breakpoints {
    my @todo = @_;
    my @testers;
    while (my ($i, $breakpoint) = splice @todo, 0, 2) {
        step("breakpoint $breakpoint at p$i");
        $doomed{$i} = 1;
        push @testers, start_rsm_tester($i, 'breakpoint', $breakpoint);
    }
    expect_answer($_) for @testers;
    return;
}

sub partition {
    my ($i) = @_;
    step("partition p$i");
    expect_answer(start_rsm_tester($i, 'partition', 0));
    return;
}

sub heal {
    my ($i) = @_;
    step("heal p$i");
    expect_answer(start_rsm_tester($i, 'partition', 1));
    return;
}

sub start_lock_tester {
    step('start lock_tester');
    $lock_tester = start_process(tester_log(), './lock_tester', $port[0]);
    return;
}

sub pause {
    my ($seconds) = @_;
    wait_for($seconds, sub { check_nodes(); 0 });
    return;
}

# --- what a scenario must see ---

# The next view has this number and these members; the given nodes' logs show it, by default all members'.
sub expect_view {
    my ($number, $members, @logs) = @_;
    @logs = @$members if !@logs;
    my $expected = "view $number = " . names($members) . ' in the log' . (@logs > 1 ? 's of ' : ' of ') . names(\@logs);
    await($expected, VIEW_SECONDS, sub {
        for my $i (@logs) {
            my @views = logged_views($i);
            return 0 if @views <= $number;
            is_view($views[$number], $members)
                or fail("expected $expected, but p$i logged " . names_in($views[$number]));
        }
        return 1;
    });
    saw($number);
    return;
}

# One of the views to come has these members, and all of them log it. Others may lie between.
sub see_view {
    my ($members) = @_;
    my $number;
    my $expected = 'a view ' . names($members) . " after view $view in the logs of all its members";
    await($expected, VIEW_SECONDS, sub {
        my @views = logged_views($members->[0]);
        ($number) = grep { is_view($views[$_], $members) } $view + 1 .. $#views;
        return defined $number && !grep { my @theirs = logged_views($_); @theirs <= $number } @$members;
    });
    saw($number);
    return;
}

# The views to come end in one with these members, and all of them log it. Others may lie between.
sub in_the_end {
    my ($members) = @_;
    my ($number, $since);
    my $expected = "the views after view $view end in " . names($members) . ' in the logs of all its members';
    await($expected, VIEW_SECONDS, sub {
        my @logs = map { [logged_views($_)] } @$members;
        my $last = $#{ $logs[0] };
        my $agreed = $last > $view && !grep { $#$_ != $last || !is_view($_->[-1], $members) } @logs;
        ($number, $since) = ($last, now()) if $agreed && (!defined $number || $number != $last);
        $number = undef if !$agreed;
        return $agreed && now() - $since >= SETTLED_SECONDS;
    });
    saw($number);
    return;
}

# For that many seconds no view is added to these nodes' logs.
sub no_new_view {
    my ($seconds, @nodes) = @_;
    pause($seconds);
    for my $i (@nodes) {
        my @views = logged_views($i);
        fail("expected no view after view $view, but p$i logged " . names_in($views[-1])) if $#views > $view;
    }
    step("no new view for $seconds s");
    return;
}

# A breakpoint ends the node, with status 1.
sub expect_exit {
    my ($i) = @_;
    my $pid = $pid[$i];
    await("the breakpoint ends p$i", VIEW_SECONDS, sub { defined ended($pid) });
    fail("expected p$i to end with status 1, but it was " . how_ended(ended($pid))) if ended($pid) != 1 << 8;
    step("p$i has ended at its breakpoint");
    $pid[$i] = undef;
    delete $doomed{$i};
    return;
}

sub expect_pass {
    await('the end of lock_tester', LOCK_TESTER_SECONDS, sub { defined ended($lock_tester) });
    my ($last_line) = (tail(tester_log(), 1), '');
    chomp $last_line;
    fail('expected lock_tester to pass, but it ended with ' . how_ended(ended($lock_tester)) . " and `$last_line`")
        if ended($lock_tester) != 0 || $last_line !~ /passed all tests successfully/;
    step('lock_tester has passed');
    return;
}

# --- the scenarios ---

my @scenarios = (
    [0, 'three nodes', sub {
        start_nodes(3);
    }],
    [1, 'stop the third of three', sub {
        start_nodes(3);
        stop(2);
        expect_view(4, [0, 1]);
    }],
    [2, 'stop the first of three', sub {
        start_nodes(3);
        stop(0);
        expect_view(4, [1, 2]);
    }],
    [3, 'stop the third and start it again', sub {
        start_nodes(3);
        stop(2);
        expect_view(4, [0, 1]);
        pause(5);
        start(2);
        expect_view(5, [0, 1, 2]);
    }],
    # The third can't stand in for the second: it isn't in view 4.
    [4, 'no view without a majority of the last one', sub {
        start_nodes(3);
        stop(2);
        expect_view(4, [0, 1]);
        stop(1);
        pause(5);
        start(2);
        no_new_view(5, 0, 1, 2);
        stop(2);
        start(1);
        pause(5);
        start(2);
        in_the_end([0, 1, 2]);
    }],
    # The promises that the first had got must not keep the others from a view of their own.
    [5, 'the proposer dies between promises and accept', sub {
        start_nodes(3);
        set_breakpoints(0 => 3);
        stop(2);
        expect_exit(0);
        no_new_view(5, 0, 1, 2);
        start(2);
        in_the_end([1, 2]);
    }],
    # {p0,p1,p2} was accepted by a majority: it is view 5 although p0 is dead, and only then can p0 be removed.
    [6, 'the proposer dies between accept and decide', sub {
        start_nodes(4);
        set_breakpoints(0 => 4);
        stop(3);
        expect_exit(0);
        no_new_view(5, 1, 2);
        start(3, 1);
        expect_view(5, [0, 1, 2], 1, 2);
        see_view([1, 2]);
        in_the_end([1, 2, 3]);
    }],
    # As 6, but what was accepted has to survive in the logs of p1 and p2.
    [7, 'the same, and those that accepted are restarted', sub {
        start_nodes(4);
        set_breakpoints(0 => 4);
        stop(3);
        expect_exit(0);
        stop(2);
        stop(1);
        pause(5);
        start(1);
        pause(5);
        start(2);
        no_new_view(5, 1, 2);
        start(3, 1);
        expect_view(5, [0, 1, 2], 1, 2);
        in_the_end([1, 2, 3]);
    }],
    [8, 'lock_tester on three nodes', sub {
        start_nodes(3);
        start_lock_tester();
        expect_pass();
    }],
    [9, 'stop the third under lock_tester', sub {
        start_nodes(3);
        start_lock_tester();
        pause(1 + rand 9);
        stop(2);
        expect_view(4, [0, 1]);
        expect_pass();
    }],
    [10, 'stop the third under lock_tester and start it again', sub {
        start_nodes(3);
        start_lock_tester();
        pause(1 + rand 9);
        stop(2);
        expect_view(4, [0, 1]);
        pause(3);
        start(2);
        expect_view(5, [0, 1, 2]);
        expect_pass();
    }],
    [11, 'stop the primary under lock_tester', sub {
        start_nodes(3);
        start_lock_tester();
        pause(1 + rand 9);
        stop(0);
        expect_view(4, [1, 2]);
        expect_pass();
    }],
    [12, 'the primary dies in a request and is started again', sub {
        start_nodes(3);
        start_lock_tester();
        pause(1);
        set_breakpoints(0 => 1);
        expect_exit(0);
        expect_view(4, [1, 2]);
        start(0, 1);
        in_the_end([0, 1, 2]);
        expect_pass();
    }],
    [13, 'a backup dies in a request and is started again', sub {
        start_nodes(3);
        start_lock_tester();
        pause(1);
        set_breakpoints(2 => 1);
        expect_exit(2);
        expect_view(4, [0, 1]);
        start(2);
        in_the_end([0, 1, 2]);
        expect_pass();
    }],
    [14, 'a backup dies in a request, another in the new view', sub {
        start_nodes(5);
        start_lock_tester();
        pause(1);
        set_breakpoints(4 => 1, 3 => 2);
        see_view([0 .. 3]);
        expect_exit($_) for 4, 3;
        see_view([0 .. 2]);
        expect_pass();
    }],
    [15, 'a backup dies in a request, the primary in the new view', sub {
        start_nodes(5);
        start_lock_tester();
        pause(1);
        set_breakpoints(4 => 1, 0 => 2);
        see_view([0 .. 3]);
        expect_exit($_) for 4, 0;
        see_view([1 .. 3]);
        expect_pass();
    }],
    [16, 'partition the primary and heal it', sub {
        start_nodes(3);
        start_lock_tester();
        pause(1);
        partition(0);
        see_view([1, 2]);
        pause(1);
        heal(0);
        in_the_end([0, 1, 2]);
        expect_pass();
    }],
);

# --- what these are made of ---

sub server_log { my ($first, $i) = @_; return "lock_server-$port[$first]-$port[$i].log" }
sub tester_log { return "lock_tester-$port[0].log" }

sub names { my ($nodes) = @_; return '{' . join(',', map { "p$_" } @$nodes) . '}' }

# names() of a view as it stands in a log.
sub names_in {
    my ($logged) = @_;
    my %index = map { $port[$_] => $_ } 0 .. $#port;
    return '{' . join(',', map { defined $index{$_} ? "p$index{$_}" : $_ } split ' ', $logged) . '}';
}

sub is_view {
    my ($logged, $members) = @_;
    return defined $logged && join(' ', sort split ' ', $logged) eq join(' ', sort @port[@$members]);
}

# The views in p$i's log; the index is the number, so element 0 is undef.
sub logged_views {
    my ($i) = @_;
    my @views = (undef);
    for my $record (done_records($port[$i])) {
        my ($number, $members) = @$record;
        fail('expected view ' . @views . " next in the log of p$i, found view $number") if $number != @views;
        $decided{$number} = $members if !defined $decided{$number};
        fail("p$i logged view $number = " . names_in($members) . ', another node ' . names_in($decided{$number}))
            if $members ne $decided{$number};
        push @views, $members;
    }
    return @views;
}

sub check_nodes {
    for my $i (grep { defined $pid[$_] && !$doomed{$_} } 0 .. $#pid) {
        fail("p$i should be running, but it ended with " . how_ended(ended($pid[$i]))) if defined ended($pid[$i]);
    }
    return;
}

sub await {
    my ($expected, $seconds, $condition) = @_;
    wait_for($seconds, sub { check_nodes(); $condition->() }) or fail("expected within $seconds s: $expected");
    return;
}

# Commands go to the test server, one port above the node's own.
sub start_rsm_tester {
    my ($i, @command) = @_;
    my $test_port = $port[$i] + 1;
    return start_process(join('-', 'rsm_tester', $test_port, @command) . '.log', './rsm_tester', $test_port, @command);
}

sub expect_answer {
    my ($rsm_tester) = @_;
    await('an answer to rsm_tester', 10, sub { defined ended($rsm_tester) });
    fail('rsm_tester ended with ' . how_ended(ended($rsm_tester))) if ended($rsm_tester) != 0;
    return;
}

sub saw {
    my ($number) = @_;
    $view = $number;
    step("view $view = " . names_in($decided{$view}));
    return;
}

sub step {
    my ($what) = @_;
    printf "%8.1f s  %s\n", now() - $scenario_start, $what;
    return;
}

sub fail {
    my ($why) = @_;
    print "scenario $scenario FAILED: $why\n";
    print 'nodes: ', join(', ', map { "p$_ = $port[$_]" } 0 .. $#port), "\n";
    for my $log (map { logs_of($_) } @port) {
        print "--- $log\n", tail($log, 15);
    }
    exit 1;
}

# The text logs that a node on this port and the programs that talked to it have left, this time or earlier.
sub logs_of {
    my ($port) = @_;
    my $test_port = $port + 1;
    return grep { -e } map { glob }
        "paxos-$port.log", "lock_server-*-$port.log", "lock_tester-$port.log", "rsm_tester-$test_port-*.log";
}

# Nothing of an earlier run or scenario may be taken for this one's. RSM files without their Paxos log are stale too.
sub remove_files {
    unlink map { (logs_of($_), glob "rsm-$_.* paxos-$_.log.*") } @port;
    return;
}

sub run {
    my ($title, $steps);
    ($scenario, $title, $steps) = @_;
    print "scenario $scenario: $title\n";
    remove_files();
    ($scenario_start, $view, $lock_tester) = (now(), 0, undef);
    @pid = ();
    %doomed = %decided = ();
    $steps->();
    check_nodes();
    stop_all();
    remove_files();
    printf "scenario $scenario ok, %.1f s\n", now() - $scenario_start;
    return;
}

sub usage {
    print STDERR "usage: rsm_tester.pl [-s SEED] [-k] [SCENARIO...], scenarios 0 to $#scenarios\n";
    exit 2;
}

$| = 1;
Getopt::Long::Configure('bundling');
GetOptions('s=i' => \my $seed, 'k' => \my $kill) or usage();
my %known = map { $_->[0] => 1 } @scenarios;
usage() if grep { !$known{$_} } @ARGV;
for my $program ('./lock_server', './lock_tester', './rsm_tester') {
    next if -x $program;
    print STDERR "rsm_tester.pl: there is no $program here: run make, then start this in bin/\n";
    exit 2;
}

$seed = int rand 2**31 if !defined $seed;
srand $seed;
@port = draw_ports(5);
print "seed $seed, ports @port\n";

my %chosen = map { $_ => 1 } @ARGV;
run(@$_) for grep { !@ARGV || $chosen{ $_->[0] } } @scenarios;
print "tests done OK\n";
