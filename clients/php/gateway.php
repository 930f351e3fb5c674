<?php
// Requests to the gateway, sent again while that can help. Used by producer.php and consumer.php. Needs ext-curl.
//
// GATEWAY_URL   where the gateway is (http://127.0.0.1:8080)
// GATEWAY_KEY   the secret of a key, if the gateway asks for one
// QUEUE         the queue (emails)

declare(strict_types=1);

const WAIT_S = 20; // how long a poll waits at the gateway
const TIMEOUT_S = WAIT_S + 10; // longer than the wait: the gateway always answers first

/** Ends the program with the message unless a setting is valid. */
function check(bool $valid, string $message): void
{
    if (!$valid) {
        fprintf(STDERR, "%s\n", $message);
        exit(1);
    }
}

/** The environment variable, or the default if it is absent or empty. */
function setting(string $name, string $default): string
{
    $value = (string) getenv($name);
    return $value === '' ? $default : $value;
}

$url = setting('GATEWAY_URL', 'http://127.0.0.1:8080');
check(
    preg_match('~^https?://([^/?#@:\s]+|\[[^/?#@\s]+\])(:\d+)?(/[^?#@\s]*)?$~D', $url) && parse_url($url, PHP_URL_HOST),
    "GATEWAY_URL: '$url' is not a URL such as http://127.0.0.1:8080",
);
define('URL', rtrim($url, '/'));
define('KEY', setting('GATEWAY_KEY', ''));
check((bool) preg_match('/^[!-~]*$/D', KEY), 'GATEWAY_KEY: a key consists of visible ASCII characters without spaces');
define('QUEUE_PATH', '/queues/' . rawurlencode(setting('QUEUE', 'emails')));

/** The gateway did not do it. The name of the problem says why and is stable; the message is for people. */
final class Failed extends Exception
{
    public function __construct(
        public readonly string $problem,
        string $detail,
        public readonly bool $retryable,
        public readonly int $retryAfterS = 0,
    ) {
        parent::__construct("$problem: $detail");
    }
}

/** Whoever asked for the end of the program does not want to wait for the answer: see $stop below. */
final class Stopped extends Exception
{
}

/**
 * The JSON body of the answer; null if the body is empty. Tries again while that can help.
 *
 * @param ?string $json the body
 * @param string[] $headers such as 'Idempotency-Key: 17'
 * @param float $giveUpS no further try after so long
 * @param ?callable(): bool $stop asked all the time; true ends the call with Stopped
 */
function call(
    string $method,
    string $path,
    ?string $json = null,
    array $headers = [],
    float $giveUpS = INF,
    ?callable $stop = null,
): ?array {
    $giveUp = microtime(true) + $giveUpS;
    for ($attempt = 0; ; $attempt++) {
        try {
            return once($method, $path, $json, $headers, $stop);
        } catch (Failed $failed) {
            // A random pause, longer each time, so that many clients do not come back at the same moment.
            $pauseS = $failed->retryAfterS + 0.2 * 2 ** min($attempt, 7) * mt_rand() / mt_getrandmax();
            if (!$failed->retryable || microtime(true) + $pauseS > $giveUp) {
                throw $failed;
            }
            fprintf(STDERR, "%s; next try in %.1f s\n", $failed->getMessage(), $pauseS);
            usleep((int) ($pauseS * 1e6)); // a signal cuts it short
            if ($stop && $stop()) {
                throw new Stopped();
            }
        }
    }
}

/** As call, with a single try. */
function once(string $method, string $path, ?string $json = null, array $headers = [], ?callable $stop = null): ?array
{
    static $curl = null; // keeps its connection open
    $curl ??= curl_init();
    curl_reset($curl);
    if ($json !== null) {
        $headers[] = 'Content-Type: application/json';
    }
    if (KEY !== '') {
        $headers[] = 'Authorization: Bearer ' . KEY;
    }
    $retryAfterS = 0;
    curl_setopt_array($curl, [
        CURLOPT_URL => URL . $path,
        CURLOPT_CUSTOMREQUEST => $method,
        CURLOPT_HTTPHEADER => $headers,
        CURLOPT_TIMEOUT => TIMEOUT_S,
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_HEADERFUNCTION => function ($curl, string $header) use (&$retryAfterS): int {
            if (preg_match('/^Retry-After: *(\d+)/i', $header, $found)) {
                $retryAfterS = (int) $found[1];
            }
            return strlen($header);
        },
        CURLOPT_NOPROGRESS => $stop === null,
        CURLOPT_PROGRESSFUNCTION => fn () => $stop && $stop() ? 1 : 0, // called once a second at least
    ]);
    if ($json !== null || $method === 'POST') {
        curl_setopt($curl, CURLOPT_POSTFIELDS, $json ?? '');
    }
    $answer = curl_exec($curl);
    if (curl_errno($curl) === CURLE_ABORTED_BY_CALLBACK) {
        throw new Stopped();
    }
    if ($answer === false) {
        throw new Failed('no-answer', curl_error($curl), true);
    }
    $status = curl_getinfo($curl, CURLINFO_RESPONSE_CODE);
    if ($status < 300) {
        return $answer === '' ? null : json_decode($answer, true, flags: JSON_THROW_ON_ERROR);
    }
    if (str_starts_with(curl_getinfo($curl, CURLINFO_CONTENT_TYPE) ?: '', 'application/problem+json')) {
        $problem = json_decode($answer, true, flags: JSON_THROW_ON_ERROR);
        throw new Failed($problem['code'], $problem['detail'], $problem['retryable'], $retryAfterS);
    }
    // A proxy on the way answered.
    $retryable = in_array($status, [429, 502, 503, 504]);
    throw new Failed("http-$status", 'not an answer of the gateway', $retryable, $retryAfterS);
}
