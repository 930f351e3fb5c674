<?php
// A PHP page's view of the queues: php client.php PORT (default|plain) (put QUEUE | put-array QUEUE | get QUEUE)
// `put` stores standard input as a string, `put-array` what it decodes to, `get` prints what it takes.
[, $port, $options, $verb, $queue] = $argv;
$client = new Memcached();
if ($options === 'plain') {
    $client->setOption(Memcached::OPT_COMPRESSION, false);
}
$client->addServer('127.0.0.1', (int) $port);
if ($verb === 'get') {
    $item = $client->get($queue);
    $event = is_string($item) ? json_decode($item, true) : null;
    echo json_encode(['type' => gettype($item), 'event' => $event], JSON_PRESERVE_ZERO_FRACTION | JSON_THROW_ON_ERROR);
    exit($client->getResultCode());
}
$value = stream_get_contents(STDIN);
$stored = $client->set($queue, $verb === 'put-array' ? json_decode($value, true) : $value);
exit($stored ? 0 : 1 + $client->getResultCode());
