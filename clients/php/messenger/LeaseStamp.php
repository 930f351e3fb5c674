<?php

declare(strict_types=1);

namespace KestrelGateway\Messenger;

use Symfony\Component\Messenger\Stamp\NonSendableStampInterface;

/** The lease under which a message was received. */
final class LeaseStamp implements NonSendableStampInterface
{
    public function __construct(public readonly string $lease)
    {
    }
}
