// Makes the messages of tests/unit/test_html_messages.py: the same contents by twelve generators.
//   npm install --legacy-peer-deps --ignore-scripts && node generate.mjs > messages.jsonl && xz -9e messages.jsonl
import { createRequire } from "node:module";
import { mkdtempSync, readFileSync, writeFileSync, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const require = createRequire(import.meta.url);
const MESSAGES = 20;

// --- contents, from a seed ------------------------------------------------------------------------------------------

function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
const WORDS = (
  "order parcel invoice account password meeting garden river weather ticket Größe naïve façade mañana Łódź Київ " +
  "東京 서울 مرحبا می‌خواهم שלום नमस्ते 👨‍👩‍👧 ☂ A&B x<y 5€ “quoted” it’s 20\u00a0% e-mail under_score №7 q.e.d."
).split(" ");
const LINKS = [
  "https://shop.example/o?id=7&order_id=9&section=2&copy=1",
  "https://x.example/?u=https%3A%2F%2Fy.example%2F&t=%7Bx%7D",
  "http://x.example/a/b.html#part-2",
  "mailto:help@x.example?subject=Help%20me",
  "tel:+4930123456",
  "https://xn--mnchen-3ya.example/straße",
  "https://x.example/very/" + "long/".repeat(30),
];

function contents(seed) {
  const next = random(seed);
  const pick = (list) => list[Math.floor(next() * list.length)];
  const words = (least, most) =>
    Array.from({ length: least + Math.floor(next() * (most - least + 1)) }, () => pick(WORDS)).join(" ");
  const parts = () =>
    Array.from({ length: 1 + Math.floor(next() * 4) }, () => ({
      text: words(1, 6),
      bold: next() < 0.25,
      italic: next() < 0.2,
      href: next() < 0.25 ? pick(LINKS) : null,
    }));
  const make = {
    heading: () => ({ text: words(1, 5), level: 1 + Math.floor(next() * 3) }),
    paragraph: () => ({ parts: parts() }),
    button: () => ({ text: words(1, 3), href: pick(LINKS.slice(0, 3)) }),
    list: () => ({ ordered: next() < 0.5, items: Array.from({ length: 1 + Math.floor(next() * 4) }, parts) }),
    table: () => ({ rows: Array.from({ length: 1 + Math.floor(next() * 4) }, () => [words(1, 3), words(1, 2), words(1, 1)]) }),
    image: () => ({ alt: next() < 0.7 ? words(1, 3) : "", href: next() < 0.6 ? pick(LINKS.slice(0, 3)) : null }),
    divider: () => ({}),
    columns: () => ({ columns: Array.from({ length: 2 }, parts) }),
  };
  const kinds = Object.keys(make);
  const sections = Array.from({ length: 4 + Math.floor(next() * 8) }, () => {
    const kind = pick(kinds);
    return { kind, ...make[kind]() };
  });
  return { title: words(2, 4), preview: "Hidden " + words(3, 6), sections };
}

const escape = (text) =>
  text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/"/g, "&quot;");
const attribute = (text) => escape(text);
const html = (parts) =>
  parts
    .map(({ text, bold, italic, href }) => {
      let out = escape(text);
      if (italic) out = `<em>${out}</em>`;
      if (bold) out = `<strong>${out}</strong>`;
      return href ? `<a href="${attribute(href)}">${out}</a>` : out;
    })
    .join(" ");
const IMAGE = "https://x.example/i.png";
const listOf = ({ ordered, items }) => {
  const tag = ordered ? "ol" : "ul";
  return `<${tag}>${items.map((item) => `<li>${html(item)}</li>`).join("")}</${tag}>`;
};
const rowsOf = ({ rows }, cell = "td") =>
  rows.map((row) => `<tr>${row.map((text) => `<${cell}>${escape(text)}</${cell}>`).join("")}</tr>`).join("");

// --- generators of text ---------------------------------------------------------------------------------------------

function mjmlSource({ title, preview, sections }) {
  const part = {
    heading: (s) => `<mj-text font-size="24px"><h${s.level}>${escape(s.text)}</h${s.level}></mj-text>`,
    paragraph: (s) => `<mj-text>${html(s.parts)}</mj-text>`,
    button: (s) => `<mj-button href="${attribute(s.href)}">${escape(s.text)}</mj-button>`,
    list: (s) => `<mj-text>${listOf(s)}</mj-text>`,
    table: (s) => `<mj-table>${rowsOf(s)}</mj-table>`,
    image: (s) => `<mj-image src="${IMAGE}" alt="${attribute(s.alt)}"${s.href ? ` href="${attribute(s.href)}"` : ""} />`,
    divider: () => `<mj-divider />`,
  };
  const section = (s) =>
    s.kind === "columns"
      ? `<mj-section>${s.columns.map((c) => `<mj-column><mj-text>${html(c)}</mj-text></mj-column>`).join("")}</mj-section>`
      : `<mj-section><mj-column>${part[s.kind](s)}</mj-column></mj-section>`;
  return `<mjml><mj-head><mj-title>${escape(title)}</mj-title><mj-preview>${escape(preview)}</mj-preview></mj-head>
<mj-body>${sections.map(section).join("\n")}
<mj-section><mj-column><mj-social><mj-social-element name="facebook" href="https://x.example/f">Share</mj-social-element></mj-social>
<mj-navbar hamburger="hamburger"><mj-navbar-link href="https://x.example/n">Home</mj-navbar-link></mj-navbar></mj-column></mj-section>
</mj-body></mjml>`;
}

const plainPart = {
  heading: (s) => `<h${s.level}>${escape(s.text)}</h${s.level}>`,
  paragraph: (s) => `<p>${html(s.parts)}</p>`,
  list: listOf,
  table: (s) => `<table class="data">${rowsOf(s)}</table>`,
  image: (s) => {
    const image = `<img src="${IMAGE}" alt="${attribute(s.alt)}">`;
    return s.href ? `<a href="${attribute(s.href)}">${image}</a>` : image;
  },
  divider: () => "<hr>",
};

const generators = {
  async mjml(content, number) {
    const mjml = require("mjml");
    const made = await mjml(mjmlSource(content), { keepComments: number % 3 !== 0 });
    return made.html;
  },

  async heml(content) {
    const part = {
      ...plainPart,
      button: (s) => `<button href="${attribute(s.href)}">${escape(s.text)}</button>`,
      image: (s) => `<img src="${IMAGE}" alt="${attribute(s.alt)}" style="width: 100px; height: 20px;" />`,
      divider: () => "<hr />",
      columns: (s) => `<row>${s.columns.map((c) => `<column><p>${html(c)}</p></column>`).join("")}</row>`,
    };
    const source = `<heml><head><subject>${escape(content.title)}</subject><preview>${escape(content.preview)}</preview></head>
<body><container>${content.sections.map((s) => part[s.kind](s)).join("\n")}</container></body></heml>`;
    return (await require("heml")(source, { validate: "none", cheerio: { decodeEntities: false } })).html;
  },

  async "foundation-emails"(content) {
    const { Inky } = require("inky");
    const juice = require("juice");
    const part = {
      ...plainPart,
      button: (s) => `<button href="${attribute(s.href)}" class="large">${escape(s.text)}</button>`,
      divider: () => `<spacer size="16"></spacer><h-line></h-line>`,
    };
    const section = (s) =>
      s.kind === "columns"
        ? `<row>${s.columns.map((c) => `<columns small="12" large="6"><p>${html(c)}</p></columns>`).join("")}</row>`
        : `<row><columns>${part[s.kind](s)}</columns></row>`;
    const css = readFileSync(require.resolve("foundation-emails/dist/foundation-emails.css"), "utf8");
    const source = `<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd">
<html xmlns="http://www.w3.org/1999/xhtml"><head><title>${escape(content.title)}</title></head><body>
<span class="preheader">${escape(content.preview)}</span><table class="body"><tr><td class="center" align="center"><center>
<container>${content.sections.map(section).join("\n")}<menu><item href="https://x.example/m">Menu</item></menu></container></center></td></tr></table>
</body></html>`;
    const released = new Inky().releaseTheKraken(source, { decodeEntities: false });
    return juice.inlineContent(released, css, { xmlMode: false });
  },

  async "email-templates"(content, number) {
    const Email = require("email-templates");
    const folder = mkdtempSync(join(tmpdir(), "pug-"));
    mkdirSync(join(folder, "message"));
    const part = {
      ...plainPart,
      button: (b) => `<table><tr><td class="button"><a href="${attribute(b.href)}">${escape(b.text)}</a></td></tr></table>`,
      columns: (c) => `<table><tr>${c.columns.map((one) => `<td>${html(one)}</td>`).join("")}</tr></table>`,
    };
    const parts = content.sections.map((s) => part[s.kind](s));
    const pug = `doctype html
html
  head
    title= title
    style.
      .preview { display: none; max-height: 0 } .button { background: #336699; padding: 8px } .part { margin: 4px 0 }
  body
    div.preview= preview
    each part in parts
      div.part!= part
`;
    writeFileSync(join(folder, "message", "html.pug"), pug);
    const email = new Email({ views: { root: folder }, preview: false, juiceResources: { webResources: { images: false } } });
    return email.render("message/html", { ...content, parts, pretty: number % 2 === 1 });
  },

  async marked(content) {
    const { marked } = require("marked");
    const juice = require("juice");
    const inline = (parts) =>
      parts
        .map(({ text, bold, italic, href }) => {
          let out = text.replace(/([_*<&`\[\]])/g, "\\$1");
          if (italic) out = `*${out}*`;
          if (bold) out = `**${out}**`;
          return href ? `[${out}](<${href}>)` : out;
        })
        .join(" ");
    const text = (words) => words.replace(/([_*<&`\[\]|])/g, "\\$1");
    const part = {
      heading: (s) => "#".repeat(s.level) + " " + text(s.text),
      paragraph: (s) => inline(s.parts),
      button: (s) => `[${text(s.text)}](<${s.href}>)`,
      list: (s) => s.items.map((item, at) => `${s.ordered ? at + 1 + "." : "-"} ${inline(item)}`).join("\n"),
      table: (s) => `| a | b | c |\n| --- | --- | --- |\n${s.rows.map((row) => `| ${row.map(text).join(" | ")} |`).join("\n")}`,
      image: (s) => (s.href ? `[![${text(s.alt)}](${IMAGE})](<${s.href}>)` : `![${text(s.alt)}](${IMAGE})`),
      divider: () => "\n---\n",
      columns: (s) => s.columns.map((one) => `> ${inline(one)}`).join("\n\n"),
    };
    const body = marked.parse(content.sections.map((s) => part[s.kind](s)).join("\n\n"));
    return juice(`<html><head><title>${escape(content.title)}</title><style>.p{display:none} blockquote{border:1px solid}</style></head>
<body><span class="p">${escape(content.preview)}</span>${body}</body></html>`);
  },

  async mailgen(content, number) {
    const Mailgen = require("mailgen");
    const theme = ["default", "salted", "cerberus", "neopolitan"][number % 4];
    const generator = new Mailgen({ theme, product: { name: "Shop", link: "https://x.example/" } });
    const body = { name: content.title, intro: [], outro: [], action: [] };
    for (const s of content.sections) {
      if (s.kind === "button")
        body.action.push({ instructions: escape(s.text), button: { color: "#336699", text: escape(s.text), link: s.href } });
      else if (s.kind === "table" && !body.table)
        body.table = { data: s.rows.map(([a, b, c]) => ({ item: escape(a), description: escape(b), price: escape(c) })) };
      else if (s.kind === "list" && !body.dictionary)
        body.dictionary = Object.fromEntries(s.items.map((item, at) => ["key " + at, html(item)]));
      else if (s.kind === "paragraph") body.intro.push(html(s.parts));
      else if (s.kind === "columns") body.outro.push(...s.columns.map(html));
      else if (s.kind === "heading") body.outro.push(escape(s.text));
    }
    return generator.generate({ body });
  },

  // --- generators of components ---------------------------------------------------------------------------------------

  async "react-email"(content, number) {
    const React = require("react");
    const E = require("@react-email/components");
    const h = React.createElement;
    const section = {
      heading: (s) => h(E.Heading, { as: `h${s.level}` }, s.text),
      paragraph: (s) => h(E.Text, null, ...inReact(h, s.parts, E.Link)),
      button: (s) => h(E.Button, { href: s.href }, s.text),
      list: (s) => h(s.ordered ? "ol" : "ul", null, ...s.items.map((item) => h("li", null, ...inReact(h, item, E.Link)))),
      table: (s) => h("table", null, h("tbody", null, ...rowsInReact(h, s))),
      image: (s) => imageInReact(h, s, E.Img, E.Link),
      divider: () => h(E.Hr),
      columns: (s) => h(E.Row, null, ...s.columns.map((one) => h(E.Column, null, ...inReact(h, one, E.Link)))),
    };
    const tree = h(E.Html, { lang: "en" }, h(E.Head, null, h("title", null, content.title)), h(E.Preview, null, content.preview),
      h(E.Body, null, h(E.Container, null, ...content.sections.map((s) => h(E.Section, null, section[s.kind](s))))));
    return E.render(tree, { pretty: number % 2 === 1 });
  },

  async "jsx-email"(content) {
    const E = await import("jsx-email");
    const React = require("react");
    const h = React.createElement;
    const section = {
      heading: (s) => h(E.Heading, { as: `h${s.level}` }, s.text),
      paragraph: (s) => h(E.Text, null, ...inReact(h, s.parts, E.Link)),
      button: (s) => h(E.Button, { href: s.href, width: 160, height: 40 }, s.text),
      list: (s) => h(s.ordered ? "ol" : "ul", null, ...s.items.map((item) => h("li", null, ...inReact(h, item, E.Link)))),
      table: (s) => h("table", null, h("tbody", null, ...rowsInReact(h, s))),
      image: (s) => imageInReact(h, s, E.Img, E.Link),
      divider: () => h(E.Hr),
      columns: (s) => h(E.Row, null, ...s.columns.map((one) => h(E.Column, null, ...inReact(h, one, E.Link)))),
    };
    const tree = h(E.Html, { lang: "en" }, h(E.Head, null, h("title", null, content.title)), h(E.Preview, null, content.preview),
      h(E.Body, null, h(E.Container, null, ...content.sections.map((s) => h(E.Section, null, section[s.kind](s))))));
    return E.render(tree);
  },

  async "mjml-react"(content, number) {
    const React = require("react");
    const M = require("@faire/mjml-react");
    const { render } = require("@faire/mjml-react/utils/render");
    const h = React.createElement;
    const raw = (markup) => ({ dangerouslySetInnerHTML: { __html: markup } });
    const part = {
      heading: (s) => h(M.MjmlText, raw(`<h${s.level}>${escape(s.text)}</h${s.level}>`)),
      paragraph: (s) => h(M.MjmlText, null, ...inReact(h, s.parts, "a")),
      button: (s) => h(M.MjmlButton, { href: s.href }, s.text),
      list: (s) => h(M.MjmlText, raw(listOf(s))),
      table: (s) => h(M.MjmlTable, null, ...rowsInReact(h, s)),
      image: (s) => h(M.MjmlImage, { src: IMAGE, alt: s.alt, ...(s.href ? { href: s.href } : {}) }),
      divider: () => h(M.MjmlDivider),
    };
    const section = (s) =>
      s.kind === "columns"
        ? h(M.MjmlSection, null, ...s.columns.map((one) => h(M.MjmlColumn, null, h(M.MjmlText, null, ...inReact(h, one, "a")))))
        : h(M.MjmlSection, null, h(M.MjmlColumn, null, part[s.kind](s)));
    const tree = h(M.Mjml, null, h(M.MjmlHead, null, h(M.MjmlTitle, null, content.title), h(M.MjmlPreview, null, content.preview)),
      h(M.MjmlBody, null, ...content.sections.map(section)));
    return render(tree, { validationLevel: "skip", minify: number % 2 === 0 }).html;
  },

  async "react-html-email"(content) {
    const React = require("react");
    const E = require("react-html-email");
    const h = React.createElement;
    const part = {
      heading: (s) => h(E.Span, { fontSize: 24, fontWeight: "bold" }, s.text),
      paragraph: (s) => h(E.Span, null, ...inReact(h, s.parts, E.A)),
      button: (s) => h(E.A, { href: s.href }, s.text),
      list: (s) => h("ul", null, ...s.items.map((item) => h("li", null, ...inReact(h, item, E.A)))),
      table: (s) => h("table", null, h("tbody", null, ...rowsInReact(h, s))),
      image: (s) => imageInReact(h, s, (props) => h(E.Image, { ...props, width: 10, height: 10 }), E.A),
      divider: () => h("hr"),
      columns: (s) => h("table", null, h("tbody", null, h("tr", null, ...s.columns.map((one) => h("td", null, ...inReact(h, one, E.A)))))),
    };
    const tree = h(E.Email, { title: content.title }, ...content.sections.map((s) => h(E.Item, { align: "center" }, part[s.kind](s))));
    return E.renderEmail(tree);
  },

  async "email-builder"(content) {
    const { renderToStaticMarkup } = require("@usewaypoint/email-builder");
    const children = [];
    const document = { root: { type: "EmailLayout", data: { backdropColor: "#F8F8F8", canvasColor: "#FFFFFF", textColor: "#242424", fontFamily: "MODERN_SANS", childrenIds: children } } };
    const padding = { top: 8, bottom: 8, left: 8, right: 8 };
    content.sections.forEach((s, at) => {
      const data = {
        heading: () => ({ type: "Heading", data: { style: { padding }, props: { text: s.text, level: `h${s.level}` } } }),
        paragraph: () => ({ type: "Html", data: { style: { padding }, props: { contents: html(s.parts) } } }),
        button: () => ({ type: "Button", data: { style: { padding }, props: { text: s.text, url: s.href } } }),
        list: () => ({ type: "Html", data: { style: { padding }, props: { contents: listOf(s) } } }),
        table: () => ({ type: "Html", data: { style: { padding }, props: { contents: `<table>${rowsOf(s)}</table>` } } }),
        image: () => ({ type: "Image", data: { style: { padding }, props: { url: IMAGE, alt: s.alt, linkHref: s.href, contentAlignment: "middle" } } }),
        divider: () => ({ type: "Divider", data: { style: { padding }, props: { lineColor: "#CCCCCC" } } }),
        columns: () => ({ type: "Text", data: { style: { padding }, props: { text: s.columns.flat().map((part) => part.text).join(" ") } } }),
      }[s.kind]();
      document[`block-${at}`] = data;
      children.push(`block-${at}`);
    });
    return renderToStaticMarkup(document, { rootBlockId: "root" });
  },

  async "vue-email"(content) {
    const { createSSRApp, h } = require("vue");
    const { renderToString } = require("vue/server-renderer");
    const V = require("@vue-email/components");
    const node = (component, props, ...children) => h(component, props, typeof component === "string" ? children : { default: () => children });
    const section = {
      heading: (s) => node(V.Heading, { as: `h${s.level}` }, s.text),
      paragraph: (s) => node(V.Text, null, ...inReact(node, s.parts, V.Link)),
      button: (s) => node(V.Button, { href: s.href }, s.text),
      list: (s) => node(s.ordered ? "ol" : "ul", null, ...s.items.map((item) => node("li", null, ...inReact(node, item, V.Link)))),
      table: (s) => node("table", null, node("tbody", null, ...s.rows.map((row) => node("tr", null, ...row.map((text) => node("td", null, text)))))),
      image: (s) => (s.href ? node(V.Link, { href: s.href }, h(V.Img, { src: IMAGE, alt: s.alt })) : h(V.Img, { src: IMAGE, alt: s.alt })),
      divider: () => h(V.Hr),
      columns: (s) => node(V.Row, null, ...s.columns.map((one) => node(V.Column, null, ...inReact(node, one, V.Link)))),
    };
    const tree = () => node(V.Html, { lang: "en" }, node(V.Head, null, h("title", content.title)), node(V.Preview, null, content.preview),
      node(V.Body, null, node(V.Container, null, ...content.sections.map((s) => node(V.Section, null, section[s.kind](s))))));
    return renderToString(createSSRApp({ render: tree }));
  },
};

function inReact(h, parts, Link) {
  return parts.flatMap(({ text, bold, italic, href }, at) => {
    let out = text;
    if (italic) out = h("em", null, out);
    if (bold) out = h("strong", null, out);
    if (href) out = h(Link, { href }, out);
    return at ? [" ", out] : [out];
  });
}
function rowsInReact(h, { rows }) {
  return rows.map((row) => h("tr", null, ...row.map((text) => h("td", null, text))));
}
function imageInReact(h, { alt, href }, Img, Link) {
  const image = h(Img, { src: IMAGE, alt });
  return href ? h(Link, { href }, image) : image;
}

const failed = new Set();
for (const [name, generate] of Object.entries(generators)) {
  if (process.argv[2] && process.argv[2] !== name) continue;
  for (let number = 0; number < MESSAGES; number++) {
    try {
      const made = await generate(contents(1000 + number), number);
      process.stdout.write(JSON.stringify({ generator: name, number, html: made }) + "\n");
    } catch (error) {
      if (!failed.has(name)) console.error(name, number, error.stack.split("\n").slice(0, 5).join("\n"));
      failed.add(name);
    }
  }
}
process.exit(failed.size ? 1 : 0);
