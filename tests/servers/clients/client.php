<?php
// PHP's curl extension: `php client.php URL KEY` prints what became of each case as JSON.
[, $url, $key] = $argv;

function mail_of(string $key, array $fields = []): string
{
    return json_encode($fields + ['subject' => 's', 'recipient' => 'you@postroom.example', 'body' => 'b', 'key' => $key]);
}

function prepared(string $url, string $body, array $headers = [], ?CurlHandle $client = null): CurlHandle
{
    $client ??= curl_init();
    curl_setopt_array($client, [
        CURLOPT_URL => "$url/send-email",
        CURLOPT_POST => true,
        CURLOPT_POSTFIELDS => $body,
        CURLOPT_HTTPHEADER => ['Content-Type: application/json', ...$headers],
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_TIMEOUT => 120,
    ]);
    return $client;
}

function seen(CurlHandle $client): int|string
{
    $status = curl_getinfo($client, CURLINFO_RESPONSE_CODE);
    return $status ?: curl_error($client);
}

/** Posts over one handle, that keeps its connection. */
function in_turn(string $url, string ...$bodies): array
{
    $client = curl_init();
    return array_map(function (string $body) use ($url, $client) {
        curl_exec(prepared($url, $body, [], $client));
        return seen($client);
    }, $bodies);
}

function chunked(string $url, string $body): array
{
    $client = curl_init("$url/send-email");
    curl_setopt_array($client, [
        CURLOPT_UPLOAD => true,
        CURLOPT_CUSTOMREQUEST => 'POST',
        CURLOPT_HTTPHEADER => ['Content-Type: application/json', 'Transfer-Encoding: chunked'],
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_TIMEOUT => 120,
        CURLOPT_READFUNCTION => function ($client, $file, int $size) use (&$body): string {
            $piece = substr($body, 0, min($size, 10_000));
            $body = substr($body, strlen($piece));
            return $piece;
        },
    ]);
    curl_exec($client);
    return [seen($client)];
}

function parallel(string $url, string $body): array
{
    $many = curl_multi_init();
    $clients = [];
    $found = [];
    for ($round = 0; $round < 10; $round++) {
        for ($number = 0; $number < 8; $number++) {
            $clients[$number] = prepared($url, $body, [], $clients[$number] ?? null);
            curl_multi_add_handle($many, $clients[$number]);
        }
        do {
            curl_multi_exec($many, $running);
            if ($running) {
                curl_multi_select($many);
            }
        } while ($running);
        foreach ($clients as $client) {
            $found[seen($client)] = true;
            curl_multi_remove_handle($many, $client);
        }
    }
    return array_keys($found);
}

function replayed(string $url, string $body): array
{
    $headers = ['Idempotency-Key: php-' . bin2hex(random_bytes(8))];
    $client = curl_init();
    $first = curl_exec(prepared($url, $body, $headers, $client));
    $status = seen($client);
    $second = curl_exec(prepared($url, $body, $headers, $client));
    return [$status, seen($client), $first === $second];
}

echo json_encode([
    'post' => in_turn($url, mail_of($key)),
    'large' => in_turn($url, mail_of($key, ['body' => str_repeat('x', 5_000_000)])),
    'chunked' => chunked($url, mail_of($key, ['body' => str_repeat('x', 100_000)])),
    'parallel' => parallel($url, mail_of($key)),
    'replay' => replayed($url, mail_of($key)),
    '401' => in_turn($url, mail_of('wrong'), mail_of($key)),
    '422' => in_turn($url, mail_of($key, ['recipient' => 'nobody']), mail_of($key)),
    '413' => in_turn($url, str_repeat(' ', 60_000_000), mail_of($key)),
]);
