<?php
// Takes and settles jobs with the client that openapi-generator makes: php consumer.php URL QUEUE KEY COUNT

use KestrelGateway\Api\JobsApi;
use KestrelGateway\Api\LeasesApi;
use KestrelGateway\Api\QueuesApi;
use KestrelGateway\ApiException;
use KestrelGateway\Configuration;
use KestrelGateway\Model\ExtendRequest;
use KestrelGateway\Model\LeaseRequest;
use KestrelGateway\Model\NackRequest;
use KestrelGateway\Model\ProblemCode;
use KestrelGateway\Model\RejectRequest;
use KestrelGateway\Model\SettleRequest;

require __DIR__ . '/autoload.php';

function check(bool $ok, mixed $seen): void
{
    $ok || throw new Exception(print_r($seen, true));
}

[, $url, $queue, $key, $count] = $argv;
$configuration = (new Configuration())->setHost($url)->setAccessToken($key);
$jobs = new JobsApi(null, $configuration);
$leases = new LeasesApi(null, $configuration);

// The next job of a queue and its lease.
$take = function (string $queue, float $leaseSeconds = 60) use ($jobs): array {
    $taken = $jobs->leaseJobs($queue, new LeaseRequest(['timeout' => 20, 'lease_seconds' => $leaseSeconds]));
    check($taken->getLease() !== null, 'no job came');
    return [$taken->getJobs()[0], $taken->getLease()];
};
// Whether no job is ready.
$empty = fn (string $queue): bool => $jobs->leaseJobs($queue, new LeaseRequest(['timeout' => 0]))->getJobs() === [];

// A job of JSON, and ack.
[$job, $lease] = $take($queue);
check((array) $job->getData() === ['to' => 'ada@example.org', 'n' => 1] && $job->getAttempt() === 1, $job);
$leases->ackLease($lease->getId());

// A job of text, then ack it and take the next one in one request: bytes.
$text = $jobs->nextJob($queue, timeout: 20);
check([$text->getData(), $text->getContentType()] === ['Grüße an Ada', 'text/plain'], $text);
$image = $jobs->nextJob($queue, timeout: 20, ack: $text->getLease()->getId());
check($image->getContentType() === 'image/png', $image);
check(base64_decode($image->getDataBase64()) === implode('', array_map('chr', range(0, 255))), $image);

// Give it back for a second: until then the queue is empty. It comes back as its second attempt.
$nack = new NackRequest(['delay' => 1, 'reason' => 'the disk is full']);
$position = $leases->nackLease($image->getLease()->getId(), $nack);
check($position->getPosition() === 'tail' && $position->getDueAt() !== null, $position);
check($empty($queue), $queue);
[$job, $lease] = $take($queue, 30);
check($job->getId() === $image->getId() && $job->getAttempt() === 2, $job);
$extended = $leases->extendLease($lease->getId(), new ExtendRequest(['lease_seconds' => 120]));
check($extended->getExpiresAt() > $lease->getExpiresAt(), $extended);
$leases->rejectLease($lease->getId(), new RejectRequest(['reason' => 'not an image']));
check((new QueuesApi(null, $configuration))->getDeadLetters($queue)->getItems() === 1, $queue);

// What is settled cannot be settled in another way.
try {
    $leases->ackLease($lease->getId());
    check(false, 'a rejected job was acked');
} catch (ApiException $error) {
    check($error->getResponseObject()->getCode() === ProblemCode::LEASE_SETTLED, $error);
}

// Many jobs, settled in tens.
$numbers = [];
$held = [];
while (count($numbers) < $count) {
    [$job, $lease] = $take("$queue-many");
    $numbers[] = ((array) $job->getData())['n'];
    $held[] = $lease->getId();
    if (count($held) === 10) {
        foreach ($leases->settleLeases(new SettleRequest(['acks' => $held]))->getResults() as $result) {
            check($result->getStatus() === 204, $result);
        }
        $held = [];
    }
}
sort($numbers);
check($numbers === range(0, $count - 1), $numbers);

// Nothing is left. The request that was sent twice has stored one job. A nack needs no body. To this client an empty
// answer without a body, as nextJob has it, is an error: it asks with leaseJobs.
check($empty("$queue-many"), $queue);
[, $lease] = $take("$queue-once");
$leases->nackLease($lease->getId());
[$job, $lease] = $take("$queue-once");
check($job->getAttempt() === 2, $job);
$leases->ackLease($lease->getId());
check($empty("$queue-once"), $queue);
