<?php
// A transport for Symfony Messenger (5.4 or newer): its messages are jobs of a queue of kestrel-gateway.
// Needs PHP 8.1 and ext-curl. GatewayTransportFactory.php reads the DSN.

declare(strict_types=1);

namespace KestrelGateway\Messenger;

use Symfony\Component\Messenger\Envelope;
use Symfony\Component\Messenger\Exception\LogicException;
use Symfony\Component\Messenger\Exception\MessageDecodingFailedException;
use Symfony\Component\Messenger\Exception\TransportException;
use Symfony\Component\Messenger\Stamp\DelayStamp;
use Symfony\Component\Messenger\Stamp\TransportMessageIdStamp;
use Symfony\Component\Messenger\Transport\Receiver\MessageCountAwareInterface;
use Symfony\Component\Messenger\Transport\Serialization\SerializerInterface;
use Symfony\Component\Messenger\Transport\TransportInterface;

final class GatewayTransport implements TransportInterface, MessageCountAwareInterface
{
    private ?\CurlHandle $curl = null;

    /**
     * @param string $url such as http://127.0.0.1:8080
     * @param float $waitS how long a poll waits at the gateway; the worker reacts to signals between polls
     * @param int $leaseS longer than a handler takes: later the job is delivered again
     * @param bool $deadLetters whether a rejected message becomes a dead letter; otherwise it is removed
     */
    public function __construct(
        private string $url,
        private string $queue,
        private SerializerInterface $serializer,
        private string $key = '',
        private float $waitS = 5.0,
        private int $leaseS = 60,
        private bool $deadLetters = false,
    ) {
    }

    public function send(Envelope $envelope): Envelope
    {
        $encoded = $this->serializer->encode($envelope->withoutAll(TransportMessageIdStamp::class));
        $job = ['headers' => (object) ($encoded['headers'] ?? [])];
        $job += preg_match('//u', $encoded['body'])
            ? ['body' => $encoded['body']]
            : ['body_base64' => base64_encode($encoded['body'])];
        $delayMs = $envelope->last(DelayStamp::class)?->getDelay() ?? 0;
        $query = $delayMs > 0 ? sprintf('?delay=%.3F', $delayMs / 1000) : '';
        // Repeated with the same key, a request whose answer is lost stores the job once.
        $headers = ['Content-Type: application/json', 'Idempotency-Key: ' . bin2hex(random_bytes(16))];
        $json = json_encode($job, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES);
        $stored = $this->call('POST', "{$this->path()}/jobs$query", $json, $headers);
        return $envelope->with(new TransportMessageIdStamp($stored['id']));
    }

    public function get(): iterable
    {
        $query = sprintf('timeout=%.3F&lease_seconds=%d', $this->waitS, $this->leaseS);
        $job = $this->call('GET', "{$this->path()}/next?$query");
        if ($job === null) {
            return [];
        }
        $data = is_array($job['data'] ?? null) ? $job['data'] : [];
        $body = $data['body'] ?? base64_decode($data['body_base64'] ?? '');
        try {
            $envelope = $this->serializer->decode(['body' => $body, 'headers' => $data['headers'] ?? []]);
        } catch (MessageDecodingFailedException $error) {
            $this->settle($job['lease']['id'], 'reject', $error->getMessage()); // a dead letter, for people to look at
            throw $error;
        }
        return [$envelope->with(new TransportMessageIdStamp($job['id']), new LeaseStamp($job['lease']['id']))];
    }

    public function ack(Envelope $envelope): void
    {
        $this->settle($this->leaseOf($envelope), 'ack');
    }

    /** Messenger rejects each message whose handler failed, after it has sent a copy for the next attempt. */
    public function reject(Envelope $envelope): void
    {
        $this->settle($this->leaseOf($envelope), $this->deadLetters ? 'reject' : 'ack', 'rejected by Messenger');
    }

    public function getMessageCount(): int
    {
        return (int) $this->call('GET', "{$this->path()}?missing=zero")['items'];
    }

    private function leaseOf(Envelope $envelope): string
    {
        $stamp = $envelope->last(LeaseStamp::class);
        if ($stamp === null) {
            throw new LogicException('The message does not come from this transport: it has no LeaseStamp.');
        }
        return $stamp->lease;
    }

    private function settle(string $lease, string $how, string $reason = ''): void
    {
        $json = $how === 'reject' ? json_encode(['reason' => $reason], JSON_INVALID_UTF8_SUBSTITUTE) : null;
        $this->call('POST', "/leases/$lease/$how", $json, $json ? ['Content-Type: application/json'] : []);
    }

    private function path(): string
    {
        return '/queues/' . rawurlencode($this->queue);
    }

    /** The JSON body of the answer; null if it has none. Tries again for a few seconds while that can help. */
    private function call(string $method, string $path, ?string $json = null, array $headers = []): ?array
    {
        for ($attempt = 0; ; $attempt++) {
            [$status, $body, $error] = $this->once($method, $path, $json, $headers);
            if ($status >= 200 && $status < 300) {
                return $body === '' ? null : json_decode($body, true, 512, JSON_THROW_ON_ERROR);
            }
            $problem = json_decode($body, true);
            $retryable = $problem['retryable'] ?? in_array($status, [0, 429, 502, 503, 504], true);
            if (!$retryable || $attempt === 5) {
                $what = isset($problem['code']) ? "{$problem['code']}: {$problem['detail']}" : "$status $error";
                throw new TransportException("{$this->url}$path: $what");
            }
            usleep((int) (200_000 * 2 ** $attempt * mt_rand() / mt_getrandmax()));
        }
    }

    /** @return array{int, string, string} status, body, and what went wrong if no answer came */
    private function once(string $method, string $path, ?string $json, array $headers): array
    {
        $this->curl ??= curl_init();
        curl_reset($this->curl); // the connection stays open
        curl_setopt_array($this->curl, [
            CURLOPT_URL => $this->url . $path,
            CURLOPT_CUSTOMREQUEST => $method,
            CURLOPT_HTTPHEADER => [...$headers, ...($this->key === '' ? [] : ["Authorization: Bearer {$this->key}"])],
            CURLOPT_RETURNTRANSFER => true,
            CURLOPT_CONNECTTIMEOUT => 5,
            CURLOPT_TIMEOUT => (int) ceil($this->waitS) + 10, // longer than the wait: the gateway answers first
        ]);
        if ($method === 'POST') {
            curl_setopt($this->curl, CURLOPT_POSTFIELDS, $json ?? '');
        }
        $body = curl_exec($this->curl);
        $status = curl_getinfo($this->curl, CURLINFO_RESPONSE_CODE);
        return $body === false ? [0, '', curl_error($this->curl)] : [$status, $body, ''];
    }
}
