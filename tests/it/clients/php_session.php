<?php
// PHP's ext-ftp, told one step at a time; the steps and their answers are those of support/real_clients.rs.
//
//     php_session.php MODE VERSION PORT AUTHORITY USER PASSWORD
//
// ftp_ssl_connect knows only explicit TLS and verifies no certificate; the version of TLS is OPENSSL_CONF's business.

declare(strict_types=1);

class Failure extends Exception
{
}

// What ext-ftp warns of is the text of the reply, without its code.
set_error_handler(function (int $level, string $text): never {
    throw new Failure($text);
});

function list_directory(FTP\Connection $client, string $directory): void
{
    foreach (ftp_mlsd($client, $directory) as $entry) {
        echo implode("\t", ['entry', $entry['type'], $entry['size'] ?? '-', $entry['name']]), "\n";
    }
}

$steps = [
    'upload' => fn($client, $local, $remote) => ftp_put($client, $remote, $local, FTP_BINARY),
    'download' => fn($client, $remote, $local) => ftp_get($client, $local, $remote, FTP_BINARY),
    'continue-upload' => fn($client, $local, $remote) => ftp_put($client, $remote, $local, FTP_BINARY, FTP_AUTORESUME),
    'continue-download' => fn($client, $remote, $local) => ftp_get($client, $local, $remote, FTP_BINARY, FTP_AUTORESUME),
    'append' => fn($client, $local, $remote) => ftp_append($client, $remote, $local, FTP_BINARY),
    'upload-text' => fn($client, $local, $remote) => ftp_put($client, $remote, $local, FTP_ASCII),
    'download-text' => fn($client, $remote, $local) => ftp_get($client, $local, $remote, FTP_ASCII),
    'list' => list_directory(...),
    'rename' => fn($client, $old, $new) => ftp_rename($client, $old, $new),
    'delete' => fn($client, $name) => ftp_delete($client, $name),
    'mkdir' => fn($client, $name) => ftp_mkdir($client, $name),
    'rmdir' => fn($client, $name) => ftp_rmdir($client, $name),
];

/** Takes a step and answers it; false when it did not succeed. */
function answered(callable $step): bool
{
    try {
        $step();
    } catch (Failure $failure) {
        echo "refused\t-\t", strtr($failure->getMessage(), "\t\r\n", '   '), "\n";
        return false;
    }
    echo "done\n";
    return true;
}

[, , , $port, , $user, $password] = $argv;
$client = null;
$log_in = function () use (&$client, $port, $user, $password): void {
    $client = ftp_ssl_connect('127.0.0.1', (int) $port, 60);
    ftp_login($client, $user, $password);
    ftp_pasv($client, true);
};
if (answered($log_in)) {
    while (($line = fgets(STDIN)) !== false) {
        $words = explode("\t", rtrim($line, "\n"));
        answered(fn() => $steps[$words[0]]($client, ...array_slice($words, 1)));
    }
    ftp_close($client);
}
