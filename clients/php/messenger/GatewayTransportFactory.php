<?php
// Makes the transport from a DSN: kestrel-gateway://[KEY@]HOST:PORT/QUEUE, or kestrel-gateway+https://...
// Options, in the query or in the configuration: wait (5), lease_seconds (60), dead_letters (0).

declare(strict_types=1);

namespace KestrelGateway\Messenger;

use Symfony\Component\Messenger\Exception\InvalidArgumentException;
use Symfony\Component\Messenger\Transport\Serialization\SerializerInterface;
use Symfony\Component\Messenger\Transport\TransportFactoryInterface;
use Symfony\Component\Messenger\Transport\TransportInterface;

final class GatewayTransportFactory implements TransportFactoryInterface
{
    public function createTransport(string $dsn, array $options, SerializerInterface $serializer): TransportInterface
    {
        $parts = parse_url($dsn);
        $queue = trim($parts['path'] ?? '', '/');
        if (!isset($parts['host']) || $queue === '' || str_contains($queue, '/')) {
            throw new InvalidArgumentException('The DSN is not kestrel-gateway://[KEY@]HOST:PORT/QUEUE.');
        }
        parse_str($parts['query'] ?? '', $query);
        $options = array_diff_key($query + $options, ['transport_name' => null]);
        $options += ['wait' => 5, 'lease_seconds' => 60, 'dead_letters' => false];
        if ($unknown = array_diff_key($options, ['wait' => 1, 'lease_seconds' => 1, 'dead_letters' => 1])) {
            throw new InvalidArgumentException('Unknown options: ' . implode(', ', array_keys($unknown)) . '.');
        }
        $scheme = $parts['scheme'] === 'kestrel-gateway+https' ? 'https' : 'http';
        $port = isset($parts['port']) ? ":{$parts['port']}" : '';
        return new GatewayTransport(
            "$scheme://{$parts['host']}$port",
            rawurldecode($queue),
            $serializer,
            rawurldecode($parts['user'] ?? ''),
            (float) $options['wait'],
            (int) $options['lease_seconds'],
            filter_var($options['dead_letters'], FILTER_VALIDATE_BOOL),
        );
    }

    public function supports(string $dsn, array $options): bool
    {
        return str_starts_with($dsn, 'kestrel-gateway://') || str_starts_with($dsn, 'kestrel-gateway+https://');
    }
}
