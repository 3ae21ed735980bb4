#!/usr/bin/perl
# Three nodes on free ports of this machine, in a temporary folder. While lock_tester runs, the primary is killed with
# SIGKILL, the others go on without it, and it is started again:
#
#     demo.pl [--timeout SECONDS] [--bin DIR]
#
# Prints each view and event as it happens, and PASS or FAIL in the end; the status is 0 for PASS. The folder with the
# logs is kept after a FAIL.

use strict;
use warnings;
use Cwd 'abs_path';
use File::Basename;
use File::Path 'remove_tree';
use File::Temp 'tempdir';
use Getopt::Long;
use lib dirname(abs_path(__FILE__));
use Cluster;

use constant STEP_SECONDS => 20;

my %test_titles = (
    1 => 'one client, two locks',
    2 => 'six clients hold one lock in turn, a second each',
    3 => 'six clients, ten times each',
    4 => 'two threads of one client, ten times each',
    5 => 'six threads, two clients',
);

my ($timeout, $bin) = (180, dirname(abs_path(__FILE__)) . '/../bin');
my $start = now();
my $folder;
my @port;
my %node;               # port => pid of the nodes that should be running
my $lock_tester;        # pid
my $last_view = 0;      # the last one shown
my %shown_tests;

sub event {
    my ($subject, $what) = @_;
    printf "%7.2f s  %-11s  %s\n", now() - $start, $subject, $what;
    return;
}

sub start_node {
    my ($port, $what) = @_;
    $node{$port} = start_process("lock_server-$port.log", "$bin/lock_server", $port[0], $port);
    event("node $port", $what);
    return;
}

# The members in a node's last view, the primary first.
sub members {
    my ($port) = @_;
    my @records = done_records($port);
    return @records ? split(' ', $records[-1][1]) : ();
}

sub is_last_view_of_all {
    my @ports = @_;
    return !grep { join(' ', sort(members($_))) ne "@ports" } @ports;
}

# --- what is shown as it happens ---

sub show_views {
    my %views = map { $_->[0] => $_->[1] } map { done_records($_) } @port;
    for my $number (sort { $a <=> $b } grep { $_ > $last_view } keys %views) {
        my ($primary) = split ' ', $views{$number};
        event("view $number", sprintf '%-17s  primary %s', $views{$number}, $primary);
        $last_view = $number;
    }
    return;
}

sub show_tests {
    for my $line (lines('lock_tester.log')) {
        next if $line !~ /\btest ?([1-5])\b/ || $shown_tests{$1}++;
        event('lock_tester', "test $1: $test_titles{$1}");
    }
    return;
}

# --- waiting ---

sub look {
    show_views();
    show_tests() if defined $lock_tester;
    for my $port (sort keys %node) {
        my $status = ended($node{$port});
        fail("node $port ended by itself with " . how_ended($status)) if defined $status;
    }
    my $tester_status = defined $lock_tester ? ended($lock_tester) : undef;
    fail('lock_tester ended with ' . how_ended($tester_status)) if $tester_status;
    fail("not done within $timeout s") if now() - $start > $timeout;
    return;
}

sub await {
    my ($expected, $seconds, $condition) = @_;
    wait_for($seconds, sub { look(); $condition->() }) or fail("expected within $seconds s: $expected");
    look();   # what made the condition true may have come after the last look
    return;
}

sub pause {
    my ($seconds) = @_;
    wait_for($seconds, sub { look(); 0 });
    return;
}

# --- the end ---

sub fail {
    my ($why) = @_;
    print "\n";
    print "--- $_\n", tail($_, 15) for glob '*.log';
    print "\nFAIL  $why\n      logs in $folder\n";
    exit 1;
}

END {
    my $status = $?;
    stop_all();   # first, so that nobody writes into the folder any more
    if (defined $folder && $status != 1) {
        chdir '/';
        remove_tree($folder);
    }
    $? = $status;
}

# --- the demonstration ---

$| = 1;
if (!GetOptions('timeout=i' => \$timeout, 'bin=s' => \$bin) || @ARGV) {
    print STDERR "usage: demo.pl [--timeout SECONDS] [--bin DIR]\n";
    exit 2;
}
for my $program ("$bin/lock_server", "$bin/lock_tester") {
    next if -x $program;
    print STDERR "demo.pl: there is no $program: run make first\n";
    exit 2;
}
$bin = abs_path($bin);
$folder = tempdir('yfs-demo-XXXXXX', TMPDIR => 1);
chdir $folder or die "cannot enter $folder: $!\n";
@port = draw_ports(3);
print "A replicated lock service of three nodes loses its primary and gets it back.\n\n";

for my $i (0 .. 2) {
    start_node($port[$i], $i == 0 ? 'started, the first of a new service' : "started, joins through $port[0]");
    my @members = @port[0 .. $i];
    await('view ' . ($i + 1) . " = @members", STEP_SECONDS, sub { is_last_view_of_all(@members) });
}

$lock_tester = start_process('lock_tester.log', "$bin/lock_tester", $port[0]);
event('lock_tester', "started, with $port[0] as the node to ask first");
wait_for(5, sub { look(); $shown_tests{2} });   # the test that lasts for seconds
pause(1.5);

my ($primary) = members($port[0]);
my @others = grep { $_ ne $primary } @port;
fail('lock_tester ended before the primary was killed') if defined ended($lock_tester);
stop_process(delete $node{$primary}, 'KILL');
my $killed = now();
event("node $primary", 'killed (kill -9), the primary');
await("a view without $primary", STEP_SECONDS, sub { is_last_view_of_all(@others) });
my $removed_after = now() - $killed;

start_node($primary, 'started again with the same command line');
my $restarted = now();
await("$primary in the view again", STEP_SECONDS, sub { is_last_view_of_all(@port) });
my $back_after = now() - $restarted;

await('the end of lock_tester', $timeout, sub { defined ended($lock_tester) });
my ($last_line) = (tail('lock_tester.log', 1), '');
chomp $last_line;
$last_line =~ s{^\S*/}{};
event('lock_tester', "ended: $last_line");
fail('lock_tester has not passed') if $last_line !~ /passed all tests successfully/;
is_last_view_of_all(@port) or fail('the last view should hold all three nodes');

printf "\nPASS  the others formed a view without the primary %.2f s after its death,\n", $removed_after;
printf "      it was a member again %.2f s after its restart, and lock_tester passed all its tests\n", $back_after;
