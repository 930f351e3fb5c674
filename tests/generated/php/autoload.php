<?php
// What Composer's autoloader does for a project: the generated client, and Guzzle (here from Debian's packages).
require_once 'GuzzleHttp/autoload.php';
require_once 'GuzzleHttp/Psr7/autoload.php';
spl_autoload_register(function (string $class): void {
    if (str_starts_with($class, 'KestrelGateway\\')) {
        require __DIR__ . '/kestrel/' . strtr(substr($class, strlen('KestrelGateway\\')), '\\', '/') . '.php';
    }
});
