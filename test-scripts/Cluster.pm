# What the scripts of this folder share: a clock, processes that end when the script ends, ports that no other script
# draws, and the views in a node's Paxos log.
#
# Nothing beyond Debian's perl-base is needed, and that has no Time::HiRes.

package Cluster;

use strict;
use warnings;
use Exporter 'import';
use IO::Socket::INET;
use POSIX ':sys_wait_h';

our @EXPORT = qw(
    now nap wait_for
    start_process ended how_ended stop_process stop_all
    draw_ports
    done_records lines tail
);

# Seconds on a clock that only goes forward, in steps of 10 ms.
sub now {
    my ($ticks) = POSIX::times();
    return $ticks / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

sub nap {
    my ($seconds) = @_;
    select undef, undef, undef, $seconds;
    return;
}

# True as soon as the condition is; false if it isn't within that many seconds.
sub wait_for {
    my ($seconds, $condition) = @_;
    my $deadline = now() + $seconds;
    while (1) {
        my $last_look = now() >= $deadline;
        return 1 if $condition->();
        return 0 if $last_look;
        nap(0.05);
    }
}

# Processes. Whatever ends the script but a SIGKILL ends them too.

my $script = $$;
my %running;       # pid => 1: started here, not yet known to have ended
my %wait_status;   # pid => its wait status: known to have ended

my %exit_status = (HUP => 129, INT => 130, PIPE => 141, TERM => 143);

sub interrupted {
    my ($signal) = @_;
    $SIG{$_} = 'IGNORE' for keys %exit_status;   # a second Ctrl-C must not cut the cleaning up short
    exit $exit_status{$signal};
}
$SIG{$_} = \&interrupted for keys %exit_status;

END { stop_all() if $$ == $script }

# Starts a program, appends what it prints to the file $log, and gives its pid.
sub start_process {
    my ($log, @command) = @_;
    my $pid = fork;
    die "cannot fork: $!\n" if !defined $pid;
    if ($pid == 0) {
        $SIG{$_} = 'DEFAULT' for keys %exit_status;
        setpgrp;   # a Ctrl-C is for the script alone: it decides what ends when
        if (open(STDIN, '<', '/dev/null') && open(STDOUT, '>>', $log) && open(STDERR, '>&', \*STDOUT)) {
            no warnings 'exec';
            exec { $command[0] } @command;
        }
        print STDERR "cannot run $command[0] with its output in $log: $!\n";
        POSIX::_exit(127);   # not exit: the script's END blocks are none of the child's business
    }
    $running{$pid} = 1;
    delete $wait_status{$pid};
    return $pid;
}

# The wait status of a process that has ended, undef while it runs.
sub ended {
    my ($pid) = @_;
    if ($running{$pid} && waitpid($pid, WNOHANG) == $pid) {
        $wait_status{$pid} = $?;
        delete $running{$pid};
    }
    return $wait_status{$pid};
}

sub how_ended {
    my ($status) = @_;
    return $status & 127 ? 'signal ' . ($status & 127) : 'status ' . ($status >> 8);
}

# False if the process had to be killed because the signal did not end it within 5 s.
sub stop_process {
    my ($pid, $signal) = @_;
    kill $signal, $pid if !defined ended($pid);
    return 1 if wait_for(5, sub { defined ended($pid) });
    kill 'KILL', $pid;
    wait_for(5, sub { defined ended($pid) });
    return 0;
}

sub stop_all {
    local ($?, $!);
    my @pids = grep { !defined ended($_) } keys %running;
    kill 'KILL', @pids;
    stop_process($_, 'KILL') for @pids;
    return;
}

# Ports. A port belongs to the script that holds the UDP socket of the same number, and of the next one, where a node's
# test server listens. That keeps scripts that run side by side apart, and leaves nothing behind whatever ends them.

my @reservations;

sub reserve {
    my ($port) = @_;
    my @held;
    for my $number ($port, $port + 1) {
        my $udp = IO::Socket::INET->new(Proto => 'udp', LocalPort => $number) or return 0;
        IO::Socket::INET->new(Proto => 'tcp', LocalPort => $number, Listen => 1) or return 0;
        push @held, $udp;
    }
    push @reservations, @held;
    return 1;
}

# Random ports from 10000 to 63999, sorted: all have five digits, so the order of the names is that of the numbers.
sub draw_ports {
    my ($count) = @_;
    my @ports;
    for (1 .. 1000) {
        return sort @ports if @ports == $count;
        my $port = 10000 + int rand 54000;
        push @ports, $port if reserve($port);
    }
    die "cannot find $count free ports between 10000 and 64000\n";
}

# Logs.

# The views that a node has logged, in the order of its log: `done 3 21000 21001 ` gives [3, '21000 21001'].
sub done_records {
    my ($port) = @_;
    my @records;
    open my $log, '<', "paxos-$port.log" or return @records;
    while (my $line = <$log>) {
        # A last line without its newline is still being written.
        push @records, [$1, join ' ', split ' ', $2] if $line =~ /^done (\d+) ([\d ]+)\n/;
    }
    return @records;
}

# The lines of a file; without the file, one that says so.
sub lines {
    my ($file) = @_;
    open my $handle, '<', $file or return "(cannot read $file: $!)\n";
    return <$handle>;
}

# The last lines of a file.
sub tail {
    my ($file, $count) = @_;
    my @lines = lines($file);
    return @lines > $count ? @lines[-$count .. -1] : @lines;
}

1;
