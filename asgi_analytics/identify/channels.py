"""Where visitors come from: names and kinds of the well-known sources, by host, app or campaign word.

One source a line: its name, a colon, then its keys. A key is a host (its subdomains follow it unless they have a line
of their own), `brand.*` (the same under every country's domain), an app's package, or a word used as utm_source.
"""

from __future__ import annotations

from typing import NamedTuple


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


class Source(NamedTuple):
    """A source: the name that reports show and its kind; kind "" is a plain referral."""

    name: str
    kind: str = ""


SOURCES = {
    "search": """
        Google: google google.* googleadservices.com googlesyndication.com adwords google-ads googleads
        Google app: com.google.android.googlequicksearchbox
        AOL: aol search.aol.com
        Ask: ask.com
        Baidu: baidu baidu.com baidu.jp
        Bing: bing bing.com bingads com.microsoft.bing
        Brave Search: search.brave.com
        Cốc Cốc: coccoc coccoc.com
        Daum: daum daum.net
        Dogpile: dogpile.com
        DuckDuckGo: duckduckgo duckduckgo.com ddg com.duckduckgo.mobile.android
        Ecosia: ecosia ecosia.org com.ecosia.android
        Excite: excite.com
        GMX: suche.gmx.net suche.gmx.at suche.gmx.ch
        Haosou: so.com haosou.com
        Kagi: kagi kagi.com
        Lilo: lilo.org
        Lycos: lycos.com
        Mail.ru: go.mail.ru
        Marginalia: marginalia-search.com search.marginalia.nu
        MetaGer: metager.*
        Mojeek: mojeek.com
        MSN: msn msn.com
        Naver: naver naver.com
        Petal Search: petalsearch.com
        Presearch: presearch.com
        Qwant: qwant qwant.com
        Rambler: rambler.ru
        Seznam: seznam seznam.cz
        Shenma: sm.cn
        Sogou: sogou sogou.com
        Startpage: startpage.com
        Swisscows: swisscows.com
        T-Online: suche.t-online.de
        Toutiao: so.toutiao.com
        Virgilio: virgilio.it
        WEB.DE: suche.web.de
        Yahoo!: yahoo yahoo.* search.yahoo.com search.yahoo.co.jp
        Yandex: yandex yandex.* ya.ru
    """,
    "social": """
        Facebook: facebook facebook.com fb fb.com fb.me facebook-ads fbads com.facebook.katana com.facebook.lite
        Instagram: instagram instagram.com ig com.instagram.android
        Meta: meta
        Threads: threads threads.net threads.com com.instagram.barcelona
        Messenger: messenger messenger.com m.me com.facebook.orca
        WhatsApp: whatsapp whatsapp.com wa.me com.whatsapp
        X: x x.com twitter twitter.com t.co com.twitter.android
        LinkedIn: linkedin linkedin.com lnkd.in com.linkedin.android
        Reddit: reddit reddit.com redd.it com.reddit.frontpage
        Pinterest: pinterest pinterest.* pin.it com.pinterest
        TikTok: tiktok tiktok.com com.zhiliaoapp.musically com.ss.android.ugc.trill
        Bluesky: bluesky bsky.app bsky.social go.bsky.app
        Mastodon: mastodon mastodon.social mastodon.online mas.to fosstodon.org hachyderm.io mstdn.social
        Snapchat: snapchat snapchat.com com.snapchat.android
        Telegram: telegram telegram.org t.me telegram.me org.telegram.messenger
        Discord: discord discord.com discordapp.com com.discord
        Slack: slack slack.com com.slack com.slack.android
        Hacker News: hackernews news.ycombinator.com hn
        Lobsters: lobste.rs
        Product Hunt: producthunt producthunt.com
        Quora: quora quora.com
        Tumblr: tumblr tumblr.com
        Medium: medium.com
        VK: vk vk.com vkontakte.ru vk.ru com.vkontakte.android
        Odnoklassniki: ok.ru odnoklassniki.ru
        Weibo: weibo weibo.com weibo.cn
        WeChat: wechat weixin weixin.qq.com wechat.com
        QZone: qzone qzone.qq.com
        Douban: douban douban.com
        Xiaohongshu: xiaohongshu.com xhslink.com
        Zhihu: zhihu zhihu.com
        LINE: line.me jp.naver.line.android
        KakaoTalk: kakaotalk kakao.com
        Mixi: mixi.jp
        Hatena: hatena.ne.jp
        Xing: xing xing.com
        Nextdoor: nextdoor nextdoor.com
        Meetup: meetup meetup.com
        Flipboard: flipboard flipboard.com
        Slashdot: slashdot.org
        Lemmy: lemmy.world lemmy.ml
        LiveJournal: livejournal.com
        Truth Social: truthsocial.com
        Gab: gab.com
    """,
    "video": """
        YouTube: youtube youtube.com youtu.be youtube-nocookie.com com.google.android.youtube
        Vimeo: vimeo vimeo.com
        Twitch: twitch twitch.tv tv.twitch.android.app
        Dailymotion: dailymotion dailymotion.com dai.ly
        Bilibili: bilibili bilibili.com b23.tv
        Niconico: nicovideo.jp
        Rumble: rumble rumble.com
        Odysee: odysee odysee.com
        Youku: youku.com
        iQIYI: iqiyi.com
        Rutube: rutube.ru
        Wistia: wistia.com
        TED: ted.com
        Netflix: netflix.com
        Disney+: disneyplus.com
        Hulu: hulu.com
    """,
    "shopping": """
        Amazon: amazon amazon.* amzn.to com.amazon.mshop.android.shopping
        eBay: ebay ebay.*
        Etsy: etsy etsy.com
        AliExpress: aliexpress aliexpress.* aliexpress.com
        Alibaba: alibaba alibaba.com
        Google Shopping: google_shopping google-shopping shopping.google.com
        Walmart: walmart walmart.com
        Target: target.com
        Best Buy: bestbuy.com
        Flipkart: flipkart flipkart.com
        Mercado Libre: mercadolibre mercadolibre.* mercadolivre.com.br
        Rakuten: rakuten rakuten.co.jp rakuten.com
        Shop: shop.app
        Shopee: shopee shopee.*
        Lazada: lazada lazada.*
        Taobao: taobao taobao.com tmall.com
        JD: jd.com
        Temu: temu temu.com
        SHEIN: shein shein.com
        Wish: wish.com
        Zalando: zalando zalando.*
        OTTO: otto.de
        Allegro: allegro.pl
        Ozon: ozon.ru
        Wildberries: wildberries.ru
        idealo: idealo idealo.*
        PriceRunner: pricerunner.*
        Kelkoo: kelkoo.*
        Wayfair: wayfair.com
        Vinted: vinted.*
    """,
    "ai": """
        ChatGPT: chatgpt chatgpt.com openai openai.com chat.openai.com com.openai.chatgpt
        Claude: claude claude.ai com.anthropic.claude
        Gemini: gemini gemini.google.com bard.google.com com.google.android.apps.bard
        Google AI Studio: aistudio.google.com
        NotebookLM: notebooklm.google.com
        Copilot: copilot copilot.com copilot.microsoft.com copilot.cloud.microsoft m365.cloud.microsoft
        Copilot: edgeservices.bing.com com.microsoft.copilot
        Perplexity: perplexity perplexity.ai ai.perplexity.app.android
        Meta AI: meta.ai
        Mistral: chat.mistral.ai
        Grok: grok grok.com ai.x.grok
        You.com: you.com
        Duck.ai: duck.ai
        DeepSeek: deepseek deepseek.com com.deepseek.chat
        Poe: poe.com
        Pi: pi.ai
        Phind: phind phind.com
        Kimi: kimi kimi.com
        Qwen: qwen qwen.ai chat.qwen.ai
        Z.ai: chat.z.ai
        Doubao: doubao doubao.com
        Yuanbao: yuanbao.tencent.com
        Character.AI: character.ai
        Manus: manus.im
        Genspark: genspark genspark.ai
        T3 Chat: t3.chat
        Andi: andi.com andisearch.com
    """,
    "email": """
        Gmail: gmail gmail.com mail.google.com com.google.android.gm
        Outlook: outlook outlook.com outlook.live.com outlook.office.com outlook.office365.com
        Outlook: com.microsoft.office.outlook
        Yahoo! Mail: mail.yahoo.com mail.yahoo.co.jp com.yahoo.mobile.client.android.mail
        Proton Mail: mail.proton.me proton.me ch.protonmail.android
        iCloud Mail: icloud.com
        Fastmail: fastmail.com
        GMX: gmx.net gmx.com gmx.at gmx.ch
        WEB.DE: web.de
        AOL Mail: mail.aol.com
        Zoho Mail: mail.zoho.com mail.zoho.eu
        Yandex Mail: mail.yandex.ru mail.yandex.com
        Mail.ru: e.mail.ru
        Orange Mail: messagerie.orange.fr
        T-Online Mail: email.t-online.de
        QQ Mail: mail.qq.com
        NetEase Mail: mail.163.com mail.126.com
        Mailchimp: mailchimp mailchi.mp list-manage.com campaign-archive.com
        Klaviyo: klaviyo
        HubSpot: hs_email
        SendGrid: sendgrid sendgrid.net
        Superhuman: mail.superhuman.com
    """,
    "": """
        Google accounts: accounts.google.com
        Google Ads: ads.google.com
        Google Analytics: analytics.google.com tagassistant.google.com tagmanager.google.com
        Google Calendar: calendar.google.com
        Google Chat: chat.google.com
        Google Classroom: classroom.google.com
        Google Cloud: cloud.google.com console.cloud.google.com
        Google Docs: docs.google.com drive.google.com
        Google Groups: groups.google.com
        Google Meet: meet.google.com
        Google News: news.google.com com.google.android.apps.magazines
        Google Play: play.google.com
        Google Search Console: search.google.com
        Google Sites: sites.google.com
        Google Translate: translate.google.com translate.goog
        GitHub: github github.com com.github.android
        Wikipedia: wikipedia wikipedia.org
    """,
}

CLICK_IDS = {
    "gclid": "google",
    "gbraid": "google",
    "wbraid": "google",
    "dclid": "",
    "msclkid": "bing",
    "fbclid": "facebook",
    "ttclid": "tiktok",
    "twclid": "x",
    "li_fat_id": "linkedin",
}

# Second levels under a country's domain below which names are registered, as in example.co.uk.
SECOND_LEVELS = _words("ac co com ed edu gob go gouv gov gv ltd me mil ne net nhs nic nom or org plc sch")
# Domains whose subdomains belong to different people, second levels that only some countries have among them.
SHARED_DOMAINS = _words(
    """
    a.run.app ad.jp amplifyapp.com appspot.com art.br asn.au asso.fr azurestaticapps.net azurewebsites.net
    beehiiv.com blog.br blogspot.com bubbleapps.io carrd.co cloudfront.net co.com de.com deno.dev duckdns.org
    eco.br eu.org firebaseapp.com fly.dev framer.app framer.website geek.nz gen.tr ghost.io gitbook.io github.io
    gitlab.io glitch.me gr.jp herokuapp.com hf.space id.au in.net in.th info.pl k12.tr kiev.ua koyeb.app
    lovable.app my.id myshopify.com neocities.org netlify.app ngrok-free.app ngrok.io notion.site onrender.com
    pages.dev pythonanywhere.com re.kr readthedocs.io replit.app replit.dev run.app s3.amazonaws.com school.nz
    squarespace.com streamlit.app substack.com surge.sh tumblr.com uk.com up.railway.app us.com vercel.app waw.pl
    web.app web.id web.tr web.za webador.com webflow.io weebly.com wixsite.com wixstudio.com wordpress.com
    workers.dev
    """
)
# Sites that are only ever seen as forged referrers.
SPAM = _words(
    """
    best-seo-offer.com best-seo-solution.com buttons-for-website.com buttons-for-your-website.com darodar.com
    event-tracking.com free-share-buttons.com free-social-buttons.com get-free-traffic-now.com hulfingtonpost.com
    ilovevitaly.com makemoneyonline.com priceg.com savetubevideo.com semalt.com semaltmedia.com seo-platform.com
    simple-share-buttons.com social-buttons.com success-seo.com trafficmonetize.org traffic2money.com
    videos-for-your-business.com website-errors-scanner.com 4webmasters.org 7makemoneyonline.com
    """
)


def _read() -> tuple[dict[str, Source], dict[str, Source]]:
    keys: dict[str, Source] = {}
    brands: dict[str, Source] = {}
    for kind, lines in SOURCES.items():
        for line in filter(None, map(str.strip, lines.splitlines())):
            name, _, listed = line.partition(": ")
            source = Source(name, kind)
            for key in listed.lower().split():
                (brands if key.endswith(".*") else keys)[key.removesuffix(".*")] = source
    return keys, brands


BY_KEY, BY_BRAND = _read()
