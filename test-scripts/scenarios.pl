#!/usr/bin/perl
# Rounds of rsm_tester.pl side by side, each in a folder of its own:
#
#     scenarios.pl [--rounds N] [--jobs N] [--seed SEED] [--bin DIR] [SCENARIO...]
#
# Prints one line per finished round and a table per scenario. The folders of failed rounds are kept, with a copy of
# the programs that failed; round N of a run has the seed SEED + N - 1. The status is 0 if every round passed.

use strict;
use warnings;
use Cwd 'abs_path';
use File::Basename;
use File::Path 'remove_tree';
use File::Temp 'tempdir';
use Getopt::Long;
use lib dirname(abs_path(__FILE__));
use Cluster;

my $here = dirname(abs_path(__FILE__));
my ($rounds, $jobs, $seed, $bin) = (1, 1, undef, "$here/../bin");

my $folder;           # of this run: bin/ and a folder a round
my %running;          # round => {pid, folder, seed, start}
my (@passed, @failed);
my @scenarios;        # as they first appear in the logs
my %results;          # scenario => {ok, failed, seconds}

sub start_round {
    my ($round) = @_;
    my $round_folder = "$folder/round-$round";
    mkdir $round_folder or die "cannot make $round_folder: $!\n";
    symlink $_, "$round_folder/" . basename($_) for glob "$folder/bin/*";
    my $round_seed = $seed + $round - 1;
    chdir $round_folder or die "cannot enter $round_folder: $!\n";
    my $pid = start_process('rsm_tester.log', "$here/rsm_tester.pl", '-s', $round_seed, @ARGV);
    chdir '/';
    $running{$round} = {pid => $pid, folder => $round_folder, seed => $round_seed, start => now()};
    return;
}

sub finish_round {
    my ($round) = @_;
    my ($pid, $round_folder, $round_seed, $start) = @{ delete $running{$round} }{qw(pid folder seed start)};
    my $log = "$round_folder/rsm_tester.log";
    my $why = read_results($log);
    my $line = sprintf 'round %d (%s): %5.1f s  ', $round, @ARGV ? "@ARGV" : 'all', now() - $start;
    if (ended($pid) == 0) {
        print "${line}ok\n";
        push @passed, $round;
        remove_tree($round_folder);
    } else {
        $why = join ': ', 'rsm_tester.pl ended with ' . how_ended(ended($pid)), tail($log, 1) if !defined $why;
        chomp $why;
        print "${line}FAIL  $why\n", ' ' x length $line, "seed $round_seed, logs in $round_folder\n";
        push @failed, $round;
    }
    return;
}

# Counts what a round's log says of each scenario, and gives its line about the one that failed.
sub read_results {
    my ($log) = @_;
    my $failure;
    for my $line (lines($log)) {
        if ($line =~ /^scenario (\S+) ok, ([\d.]+) s/) {
            my $result = result($1);
            $result->{ok}++;
            $result->{seconds} += $2;
        } elsif ($line =~ /^(scenario (\S+) FAILED: .*)/) {
            $failure = $1;
            result($2)->{failed}++;
        }
    }
    return $failure;
}

sub result {
    my ($scenario) = @_;
    push @scenarios, $scenario if !$results{$scenario};
    return $results{$scenario} ||= {ok => 0, failed => 0, seconds => 0};
}

sub print_table {
    print "\nscenario     ok  failed  mean seconds\n";
    for my $scenario (@scenarios) {
        my ($ok, $failed, $seconds) = @{ $results{$scenario} }{qw(ok failed seconds)};
        printf "%8s %6d %7d %13s\n", $scenario, $ok, $failed, $ok ? sprintf('%.1f', $seconds / $ok) : '-';
    }
    printf "\n%d of %d rounds passed\n", scalar @passed, $rounds;
    return;
}

# Testers end their nodes when they are told to end; a SIGKILL would leave the nodes behind.
END {
    my $status = $?;
    if (defined $folder) {
        my @pids = map { $_->{pid} } values %running;
        kill 'TERM', @pids;
        wait_for(10, sub { !grep { !defined ended($_) } @pids });
        remove_tree(@failed ? map { $_->{folder} } values %running : $folder);
    }
    $? = $status;
}

sub usage {
    print STDERR "usage: scenarios.pl [--rounds N] [--jobs N] [--seed SEED] [--bin DIR] [SCENARIO...]\n";
    exit 2;
}

$| = 1;
GetOptions('rounds=i' => \$rounds, 'jobs=i' => \$jobs, 'seed=i' => \$seed, 'bin=s' => \$bin) or usage();
usage() if $rounds < 1 || $jobs < 1;
$seed = int rand 2**31 if !defined $seed;

# A copy, so that a build during the run doesn't change what is tested.
$folder = tempdir('yfs-scenarios-XXXXXX', TMPDIR => 1);
system('cp', '-r', $bin, "$folder/bin") == 0 or die "scenarios.pl: no programs in $bin: run make first\n";

my $next = 1;
while ($next <= $rounds || %running) {
    start_round($next++) while $next <= $rounds && keys %running < $jobs;
    wait_for(1, sub { grep { defined ended($_->{pid}) } values %running });
    finish_round($_) for grep { defined ended($running{$_}{pid}) } sort { $a <=> $b } keys %running;
}
print_table();
exit(@failed ? 1 : 0);
