//! Pages: one HTML file each, without scripts and without anything from elsewhere. Everything that the templates print is
//! escaped, since names of data sets, items and folders are anybody's.

use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use serde::Serialize;
use std::sync::LazyLock;

/// A name that ends in `.html` turns escaping on.
const TEMPLATES: [(&str, &str); 3] = [
    ("page.html", include_str!("page.html")),
    ("run.html", include_str!("run.html")),
    ("runs.html", include_str!("runs.html")),
];

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("its delimiters are the usual ones"));
    for (name, source) in TEMPLATES {
        environment.add_template(name, source).expect("the templates are constants");
    }
    environment
});

/// One of `TEMPLATES` with these values.
pub fn render(template: &str, values: impl Serialize) -> String {
    let template = ENVIRONMENT.get_template(template).expect("the templates are constants");
    template.render(Serde(values)).expect("the values are those of the template")
}
