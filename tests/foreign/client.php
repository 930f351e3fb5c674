<?php
// A PHP page's view of the queues: php client.php PORT (default|plain|noreply) (put|put-array|get|turns) QUEUE
// `put` stores standard input as a string, `put-array` what it decodes to, `get` prints what it takes. `turns` puts two
// strings and takes one, 100 times, and prints those it took.
[, $port, $options, $verb, $queue] = $argv;
$client = new Memcached();
if ($options !== 'default') {
    $client->setOption(Memcached::OPT_COMPRESSION, false);
}
$client->setOption(Memcached::OPT_NOREPLY, $options === 'noreply');
$client->addServer('127.0.0.1', (int) $port);
if ($verb === 'get') {
    $item = $client->get($queue);
    $event = is_string($item) ? json_decode($item, true) : null;
    echo json_encode(['type' => gettype($item), 'event' => $event], JSON_PRESERVE_ZERO_FRACTION | JSON_THROW_ON_ERROR);
    exit($client->getResultCode());
}
if ($verb === 'turns') {
    $found = [];
    for ($n = 0; $n < 200; $n += 2) {
        $client->set($queue, "job $n");
        $client->set($queue, 'job ' . ($n + 1));
        $found[] = $client->get($queue);
    }
    echo json_encode($found, JSON_THROW_ON_ERROR);
    exit(0);
}
$value = stream_get_contents(STDIN);
$stored = $client->set($queue, $verb === 'put-array' ? json_decode($value, true) : $value);
exit($stored ? 0 : 1 + $client->getResultCode());
