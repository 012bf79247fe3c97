# Perl's Net::FTP, told one step at a time; the steps and their answers are those of support/real_clients.rs.
#
#     perl_session.pl MODE VERSION PORT AUTHORITY USER PASSWORD

use strict;
use warnings;

use IO::Socket::SSL;
use Net::FTP;

$| = 1;
my ($mode, $version, $port, $authority, $user, $password) = @ARGV;
my $client;

# One command's success is the module's true value; what went wrong is the reply it holds.
sub must {
    die unless $_[0];
}

# The type of transfer stays what it was set to: each says its own.
sub binary {
    my ($step, @files) = @_;
    must($client->binary);
    $step->(@files);
}

sub text {
    my ($step, @files) = @_;
    must($client->ascii);
    $step->(@files);
}

sub upload { my ($local, $remote) = @_; must($client->put($local, $remote)) }
sub download { my ($remote, $local) = @_; must($client->get($remote, $local)) }

# put has no offset; the file that is read has one.
sub continue_upload {
    my ($local, $remote) = @_;
    my $offset = $client->size($remote);
    open(my $file, '<:raw', $local) or die;
    seek($file, $offset, 0);
    must($client->append($file, $remote));
}

sub append { my ($local, $remote) = @_; must($client->append($local, $remote)) }

sub continue_download {
    my ($remote, $local) = @_;
    must($client->get($remote, $local, -s $local));
}

# Net::FTP parses no listings: the columns of `ls -l`, taken as its users take them.
sub list_directory {
    my ($directory) = @_;
    my $lines = $client->dir($directory);
    must($lines);
    for my $line (@$lines) {
        $line =~ /^([-dl])\S+ +\d+ \S+ \S+ +(\d+) \w{3} [ \d]\d [ \d][\d:]{4} (.*)$/ or die "not a line of ls: $line";
        my ($type, $size, $name) = ($1, $2, $3);
        print join("\t", 'entry', $type eq 'd' ? ('dir', '-') : ('file', $size), $name), "\n";
    }
}

my %steps = (
    'upload' => sub { binary(\&upload, @_) },
    'download' => sub { binary(\&download, @_) },
    'continue-upload' => sub { binary(\&continue_upload, @_) },
    'continue-download' => sub { binary(\&continue_download, @_) },
    'append' => sub { binary(\&append, @_) },
    'upload-text' => sub { text(\&upload, @_) },
    'download-text' => sub { text(\&download, @_) },
    'list' => \&list_directory,
    'rename' => sub { must($client->rename(@_)) },
    'delete' => sub { must($client->delete(@_)) },
    'mkdir' => sub { must($client->mkdir(@_)) },
    'rmdir' => sub { must($client->rmdir(@_)) },
);

# Takes a step and answers it; false when it did not succeed.
sub answered {
    my ($step, @arguments) = @_;
    if (eval { $step->(@arguments); 1 }) {
        print "done\n";
        return 1;
    }
    my $why = $@;
    if ($client && $client->code >= 400) {
        print "refused\t", $client->code, "\n";
    } else {
        print "failed\t", $why =~ s/\s+/ /gr, " $SSL_ERROR\n";
    }
    return 0;
}

sub log_in {
    my @tls = (
        SSL_ca_file => $authority,
        SSL_verify_mode => SSL_VERIFY_PEER,
        SSL_verifycn_scheme => 'ftp',
        SSL_version => $version eq '1.2' ? 'TLSv1_2' : 'TLSv1_3',
    );
    $client = Net::FTP->new('127.0.0.1', Port => $port, Timeout => 60, Passive => 1, SSL => $mode eq 'implicit', @tls);
    die $@ unless $client;
    must($client->starttls) if $mode eq 'explicit';
    must($client->login($user, $password));
}

if (answered(\&log_in)) {
    while (my $line = <STDIN>) {
        chomp $line;
        my ($step, @arguments) = split /\t/, $line;
        answered($steps{$step}, @arguments);
    }
    $client->quit;
}
