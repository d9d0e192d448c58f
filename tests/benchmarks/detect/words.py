"""Lists of words: of page names, and of paths that scanners try."""

from __future__ import annotations

_WORDS = (
    "alpine amber anchor apple archive autumn basic better bicycle bread bridge bright budget butter cabin camera "
    "canal candle castle cedar chart cheap circle city clay clear cloud coast coffee cold colour copper corner cotton "
    "country cream crystal daily desk device early easy eastern engine evening fabric family fast field final fine "
    "fire first flower forest fresh garden gentle glass gold grain green guide harbour heavy home honey house island "
    "kitchen lake large lemon letter light linen little local long maple market meadow metal modern moon morning "
    "mountain narrow new night north oak ocean office old olive open orange paint paper park pepper piano pine plain "
    "pocket quick quiet rain river road round salt sand school sea second secret silver simple slow small smart snow "
    "soft spring steel stone storm street summer sun table tea thin train travel tree valley village violet walk wall "
    "warm water west wide wild wind window winter wood wool yellow young"
)
_PROBES = (
    "/.env /.env.local /.env.production /.git/config /.git/HEAD /.aws/credentials /.ssh/id_rsa /.DS_Store /.htpasswd "
    "/wp-login.php /wp-admin/setup-config.php /xmlrpc.php /wp-content/plugins/wp-file-manager/readme.txt "
    "/wp-json/wp/v2/users /phpmyadmin/index.php /pma/ /admin/ /admin.php /administrator/index.php /manager/html "
    "/solr/admin/info/system /actuator/env /actuator/health /server-status /.well-known/security.txt /config.json "
    "/config.php.bak /backup.zip /backup.sql /dump.sql /db.sql /info.php /phpinfo.php /test.php /shell.php "
    "/vendor/phpunit/phpunit/src/Util/PHP/eval-stdin.php /cgi-bin/luci /boaform/admin/formLogin /HNAP1 "
    "/owa/auth/logon.aspx /autodiscover/autodiscover.json /remote/login /api/v1/users /api/.env /graphql "
    "/swagger.json /console/ /jenkins/login /telescope/requests /_ignition/execute-solution"
)
_STEMS = (
    "admin api app backup beta blog bin cms conf data db dev dist export files home include js lib log old php site "
    "sql src test tmp upload web"
)

WORDS = tuple(_WORDS.split())
PROBES = tuple(_PROBES.split())  # what is hoped to be there
STEMS = tuple(_STEMS.split())  # of names that are tried with all endings
