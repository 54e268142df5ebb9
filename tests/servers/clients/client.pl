# HTTP::Tiny, which comes with Perl: `perl client.pl URL KEY` prints what became of each case as JSON.
use strict;
use warnings;
use HTTP::Tiny;
use JSON::PP;

my ($url, $key) = @ARGV;
my $json = JSON::PP->new->canonical;
my $number = 0;

sub mail { return $json->encode({ subject => "s", recipient => 'you@postroom.example', body => "b", key => $key, @_ }) }

sub post {
    my ($client, $body, %headers) = @_;
    my $answer = $client->post("$url/send-email",
        { content => $body, headers => { "Content-Type" => "application/json", %headers } });
    return $answer->{status} == 599 ? ($answer->{content}) : ($answer->{status} + 0, $answer->{content});
}

sub in_turn {
    my $client = HTTP::Tiny->new(timeout => 120);
    return [map { (post($client, $_))[0] } @_];
}

sub chunked {
    my $body = mail(body => "x" x 100_000);
    return [(post(HTTP::Tiny->new(timeout => 120), sub { return substr($body, 0, 10_000, "") }))[0]];
}

sub replayed {
    my $client = HTTP::Tiny->new(timeout => 120);
    my %again = ("Idempotency-Key" => "perl-$$-" . time);
    my @first = post($client, mail(), %again);
    my @second = post($client, mail(), %again);
    return [$first[0], $second[0], $first[1] eq $second[1] ? JSON::PP::true : JSON::PP::false];
}

sub parallel {
    my @pipes;
    for (1 .. 8) {
        my $pid = open(my $pipe, "-|") // die "cannot fork: $!";
        if (!$pid) { print join("\n", @{ in_turn(map { mail() } 1 .. 10) }); exit }
        push @pipes, $pipe;
    }
    my %seen;
    for my $pipe (@pipes) { while (<$pipe>) { chomp; $seen{$_} = 1 } close $pipe }
    return [map { /^\d+$/ ? $_ + 0 : $_ } sort keys %seen];
}

print $json->encode({
    post     => in_turn(mail()),
    large    => in_turn(mail(body => "x" x 5_000_000)),
    chunked  => chunked(),
    parallel => parallel(),
    replay   => replayed(),
    401      => in_turn(mail(key => "wrong"), mail()),
    422      => in_turn(mail(recipient => "nobody"), mail()),
    413      => in_turn(" " x 60_000_000, mail()),
});
