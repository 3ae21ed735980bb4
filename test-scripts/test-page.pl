#!/usr/bin/perl
# Opens pages of traces in a headless browser, and has them check themselves (trace/src/page/check.js):
#
#     test-page.pl [--bin DIR] [--keep DIR]
#
# DIR of --bin has the programs sim, trace and lecture. The pages and pictures of them stay in DIR of --keep, or, after a FAIL, in a
# temporary folder. Needs chromium. Status 0 is PASS.

use strict;
use warnings;
use Cwd 'abs_path';
use File::Basename;
use File::Path qw(make_path remove_tree);
use File::Temp 'tempdir';
use Getopt::Long;

use constant SECONDS => 120;
# A picture with less in it is a blank one.
use constant LEAST_PICTURE_BYTES => 20_000;

my $here = dirname(abs_path(__FILE__));
my ($bin, $keep) = ("$here/../target/release");
GetOptions('bin=s' => \$bin, 'keep=s' => \$keep) && !@ARGV or die "usage: $0 [--bin DIR] [--keep DIR]\n";

my ($browser) = grep { -x } map { my $folder = $_; map { "$folder/$_" } qw(chromium chromium-browser google-chrome) }
    split /:/, $ENV{PATH};
$browser or die "$0: chromium is missing: install it (Debian: apt-get install chromium)\n";

my $folder = $keep // tempdir('test-page-XXXXXX', TMPDIR => 1);
make_path($folder);
$folder = abs_path($folder);
my $failures = 0;

sub report {
    my ($good, $what, $why) = @_;
    $failures++ unless $good;
    printf "%-6s %s%s\n", $good ? 'ok' : 'FAILED', $what, $good ? '' : ": $why";
}

# Runs a command for a bounded time; what it says on standard output, or nothing if it fails.
sub output {
    my @command = @_;
    open my $pipe, '-|', 'timeout', '--kill-after=5', SECONDS, @command or die "$0: $command[0]: $!\n";
    local $/;
    my $said = <$pipe> // '';
    return close $pipe ? $said : '';
}

sub browse {
    my ($page, @options) = @_;
    my $profile = tempdir('profile-XXXXXX', DIR => $folder);
    open my $stderr, '>&', \*STDERR or die "$0: $!\n";
    # It complains about buses and screens that aren't there.
    open STDERR, '>', "$folder/browser.log" or die "$0: $folder/browser.log: $!\n";
    my $said = output($browser, qw(--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
        --disable-background-networking --disable-component-update --disable-sync),
        '--window-size=1400,900', "--user-data-dir=$profile", @options, "file://$folder/$page");
    open STDERR, '>&', $stderr or die "$0: $!\n";
    remove_tree($profile);
    return $said;
}

# What the page's title says of its check.
sub verdict {
    my ($page) = @_;
    $page .= '#check' unless $page =~ /#/;
    my ($title) = browse($page, '--dump-dom') =~ m{<title>(.*?)</title>}s;
    return $title // 'the browser gave no page';
}

# A small trace made by hand, of which all is known.
my $known = 'lanes=4 events=37 arrows=8 lost=2 all=41 bars=7';
system("$bin/trace", '--html', "$folder/small.html", '--title', 'A small trace', "$here/../trace/tests/small.jsonl") == 0
    or report(0, 'trace writes a page', "status $?");
my $title = verdict('small.html');
report($title =~ /^PASS (\d+) of \1; \Q$known\E$/, 'the page of a small trace checks itself, and has all of it', $title);

# A whole run of the simulator.
my $run = output("$bin/sim", '--seed', 2, '--nodes', 3, '--html', "$folder/run.html");
report($run =~ /^seed 2: \d+ requests acknowledged/, 'sim writes a page', $run);
$title = verdict('run.html');
my ($arrows, $all) = $title =~ /^PASS (?:\d+) of .* arrows=(\d+) .* all=(\d+)/;
report(($arrows // 0) > 1000 && $all > 5000, 'the page of a run checks itself, and has thousands of messages', $title);

# Steps of the lecture: a page of several pictures.
output("$bin/lecture", '--html', "$folder/lecture.html", 6) =~ /^PASS/m or report(0, 'the lecture writes a page', 'no PASS');
my @scenes = map { verdict("lecture.html#picture=$_,check") } 1 .. 2;
report((grep { /^PASS (\d+) of \1;.* arrows=\d\d/ } @scenes) == 2 && $scenes[0] ne $scenes[1],
    "the lecture's page checks itself, each of its pictures", "@scenes");

# A check that can't fail is none.
open my $good, '<', "$folder/small.html" or die "$0: $folder/small.html: $!\n";
my $text = do { local $/; <$good> };
$text =~ s/state\.hovered = event;// or report(0, 'the page has a line about pointing', 'it is not there');
open my $bad, '>', "$folder/broken.html" or die "$0: $folder/broken.html: $!\n";
print $bad $text;
close $bad or die "$0: $folder/broken.html: $!\n";
$title = verdict('broken.html');
report($title =~ /^FAIL/, 'a page that does not see the pointer says so', $title);

for my $page (qw(small run lecture)) {
    for my $colors (qw(light dark)) {
        my $picture = "$folder/$page-$colors.png";
        unlink $picture;
        browse("$page.html", "--screenshot=$picture", '--blink-settings=preferredColorScheme=' . ($colors eq 'dark' ? 0 : 1));
        report((-s $picture // 0) > LEAST_PICTURE_BYTES, "$page, $colors: a picture", -s $picture // 'none');
    }
}

if ($failures) {
    print "FAIL: $failures; pages and pictures are in $folder\n";
    exit 1;
}
print 'PASS', $keep ? ": pages and pictures are in $folder" : '', "\n";
remove_tree($folder) unless $keep;
