<?php
// A small application of the real Symfony Messenger. messenger.php DSN send NAME [DELAY_MS] ... puts messages;
// messenger.php DSN consume LIMIT handles so many, and prints the name of each; messenger.php DSN count.
// A name that begins with `bad` fails each time, and is tried once more after 50 ms.

declare(strict_types=1);

$autoload = getenv('MESSENGER_AUTOLOAD') ?: '/usr/share/php/Symfony/Component/Messenger/autoload.php';
require $autoload;
require '/usr/share/php/Symfony/Component/EventDispatcher/autoload.php';
foreach (['LeaseStamp', 'GatewayTransport', 'GatewayTransportFactory'] as $name) {
    require dirname(__DIR__, 2) . "/clients/php/messenger/$name.php";
}

use KestrelGateway\Messenger\GatewayTransportFactory;
use Psr\Container\ContainerInterface;
use Symfony\Component\EventDispatcher\EventDispatcher;
use Symfony\Component\Messenger\Envelope;
use Symfony\Component\Messenger\EventListener\SendFailedMessageForRetryListener;
use Symfony\Component\Messenger\EventListener\StopWorkerOnMessageLimitListener;
use Symfony\Component\Messenger\Handler\HandlersLocator;
use Symfony\Component\Messenger\MessageBus;
use Symfony\Component\Messenger\Middleware\HandleMessageMiddleware;
use Symfony\Component\Messenger\Retry\MultiplierRetryStrategy;
use Symfony\Component\Messenger\Stamp\DelayStamp;
use Symfony\Component\Messenger\Transport\Serialization\PhpSerializer;
use Symfony\Component\Messenger\Worker;

final class Mail
{
    public function __construct(public string $name)
    {
    }
}

final class Services implements ContainerInterface
{
    public function __construct(private mixed $service)
    {
    }

    public function get(string $id): mixed
    {
        return $this->service;
    }

    public function has(string $id): bool
    {
        return true;
    }
}

[, $dsn, $verb] = $argv;
$factory = new GatewayTransportFactory();
if (!$factory->supports($dsn, [])) {
    exit(9);
}
$transport = $factory->createTransport($dsn, ['transport_name' => 'async'], new PhpSerializer());
if ($verb === 'send') {
    foreach (array_chunk(array_slice($argv, 3), 2) as [$name, $delayMs]) {
        $transport->send(new Envelope(new Mail($name), $delayMs ? [new DelayStamp((int) $delayMs)] : []));
    }
} elseif ($verb === 'count') {
    echo $transport->getMessageCount();
} else {
    $handle = function (Mail $mail): void {
        echo $mail->name, "\n";
        if (str_starts_with($mail->name, 'bad')) {
            throw new RuntimeException('it is bad');
        }
    };
    $bus = new MessageBus([new HandleMessageMiddleware(new HandlersLocator([Mail::class => [$handle]]))]);
    $events = new EventDispatcher();
    $events->addSubscriber(new StopWorkerOnMessageLimitListener((int) $argv[3]));
    $retry = new MultiplierRetryStrategy(1, 50);
    $events->addSubscriber(new SendFailedMessageForRetryListener(new Services($transport), new Services($retry)));
    (new Worker(['async' => $transport], $bus, $events))->run(['sleep' => 0]);
}
