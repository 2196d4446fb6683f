//! Charts as SVG.

use plotters::prelude::*;

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<Option<String>, Box<dyn std::error::Error>>;

/// Legible on white and on black.
const COLOURS: [RGBColor; 8] = [
    RGBColor(59, 130, 196),
    RGBColor(217, 130, 43),
    RGBColor(58, 157, 93),
    RGBColor(155, 109, 198),
    RGBColor(201, 80, 80),
    RGBColor(128, 110, 90),
    RGBColor(70, 160, 170),
    RGBColor(180, 150, 30),
];

/// A line: what it is called, and its points.
pub type Series = (String, Vec<(f64, f64)>);

/// The colour of a line by its place among those of different names.
pub fn colour(place: usize) -> RGBColor {
    COLOURS[place % COLOURS.len()]
}

/// How large, and what stands beside.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    pub size: (u32, u32),
    /// What the heights are; none where the page says it.
    pub y: Option<&'a str>,
    /// Whether the lines' names are shown, on a white ground; else the chart takes its ink from the page around it.
    pub legend: bool,
}

/// Lines over epochs; those of one name have one colour. `None` where there is no point to draw.
pub fn over_epochs(series: &[Series], frame: Frame) -> Drawn {
    let points = || series.iter().flat_map(|(_, points)| points.iter().copied());
    let Some(heights) = range(points().map(|point| point.1)) else { return Ok(None) };
    let first = points().map(|point| point.0).fold(f64::MAX, f64::min);
    let last = points().map(|point| point.0).fold(f64::MIN, f64::max);
    let names = distinct(series.iter().map(|(name, _)| name.as_str()));
    let legend = Legend { names: if frame.legend { &names } else { &[] } };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, legend.beside(frame.size)).into_drawing_area();
        if frame.legend {
            root.fill(&WHITE)?;
        }
        let area = legend.draw(&root)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(first..last.max(first + 1.0), heights)?;
        let whole = |x: &f64| if x.fract() == 0.0 { format!("{x}") } else { String::new() };
        let mut mesh = chart.configure_mesh();
        mesh.disable_mesh().x_desc("epoch").x_labels(8).y_labels(6).x_label_formatter(&whole);
        frame.y.map(|y| mesh.y_desc(y));
        mesh.draw()?;
        for (place, name) in names.iter().enumerate() {
            let colour = colour(place);
            for (_, points) in series.iter().filter(|(own, _)| own == name) {
                chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
                let ends = points.last().into_iter().map(|point| Circle::new(*point, 3, colour.filled()));
                chart.draw_series(ends)?;
            }
        }
        root.present()?;
    }
    Ok(Some(svg))
}

/// The names of lines beside a chart; of one line there is nothing to tell apart.
struct Legend<'a> {
    names: &'a [&'a str],
}

impl Legend<'_> {
    const ROW: usize = 18;

    fn width(&self) -> u32 {
        let longest = self.names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        if self.names.len() > 1 { 40 + 7 * longest as u32 } else { 0 }
    }

    /// The size of a picture with a chart of this size in it.
    fn beside(&self, (width, height): (u32, u32)) -> (u32, u32) {
        (width + self.width(), height.max((Self::ROW * (self.names.len() + 2)) as u32))
    }

    /// Draws it at the right, and gives the area that is left.
    fn draw<'b>(&self, root: &Area<'b>) -> Result<Area<'b>, Box<dyn std::error::Error>> {
        let (chart, beside) = root.split_horizontally(root.dim_in_pixel().0 - self.width());
        if self.width() > 0 {
            for (place, name) in self.names.iter().enumerate() {
                let y = (Self::ROW * (place + 1)) as i32;
                beside.draw(&Circle::new((10, y), 4, colour(place).filled()))?;
                beside.draw(&Text::new(*name, (20, y - 6), ("sans-serif", 13)))?;
            }
        }
        Ok(chart)
    }
}

/// What was measured at a place: the mean, and how far it spreads.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The line that it belongs to.
    pub line: String,
    pub place: String,
    pub mean: f64,
    pub sd: f64,
}

/// Means with their spread at places of one axis, which are equally far apart; joined by lines where the places are
/// numbers. `None` where there are not two places.
pub fn over_places(all: &[Measured], x: &str, y: &str) -> Drawn {
    let places = distinct(all.iter().map(|one| one.place.as_str()));
    let lines = distinct(all.iter().map(|one| one.line.as_str()));
    let heights = range(all.iter().flat_map(|one| [one.mean - one.sd, one.mean + one.sd]));
    let (Some(heights), true) = (heights, places.len() > 1) else { return Ok(None) };
    let longest = places.iter().map(|place| place.len()).max().unwrap_or(0);
    let width = (120 + places.len() * (30 + 7 * longest)).max(560) as u32;
    let ordered = places.iter().all(|place| place.parse::<f64>().is_ok());
    let legend = Legend { names: &lines };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, legend.beside((width, 360))).into_drawing_area();
        root.fill(&WHITE)?;
        let area = legend.draw(&root)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d((0..places.len() - 1).into_segmented(), heights)?;
        let name = |at: &SegmentValue<usize>| match at {
            SegmentValue::Exact(place) | SegmentValue::CenterOf(place) => places[*place].to_string(),
            SegmentValue::Last => String::new(),
        };
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh().light_line_style(WHITE).x_desc(x).y_desc(y);
        mesh.x_labels(places.len()).x_label_formatter(&name).draw()?;
        for (number, line) in lines.iter().enumerate() {
            let colour = colour(number);
            let own: Vec<(SegmentValue<usize>, &Measured)> = (0..)
                .zip(&places)
                .filter_map(|(at, place)| {
                    let found = all.iter().find(|one| one.line == *line && one.place == *place)?;
                    Some((SegmentValue::CenterOf(at), found))
                })
                .collect();
            let means = own.iter().map(|(at, one)| (at.clone(), one.mean));
            if ordered {
                chart.draw_series(LineSeries::new(means.clone(), colour.stroke_width(1)))?;
            }
            chart.draw_series(own.iter().map(|(at, one)| {
                let ends = [one.mean - one.sd, one.mean + one.sd].map(|end| (at.clone(), end));
                PathElement::new(ends.to_vec(), colour.stroke_width(2))
            }))?;
            chart.draw_series(means.map(|point| Circle::new(point, 4, colour.filled())))?;
        }
        root.present()?;
    }
    Ok(Some(svg))
}

/// In order of first appearance.
fn distinct<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names = Vec::new();
    for name in all {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Around finite values, with a margin.
fn range(values: impl Iterator<Item = f64>) -> Option<std::ops::Range<f64>> {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) = finite.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    let margin = (0.05 * (high - low)).max(1e-6 * high.abs()).max(1e-9);
    (low <= high).then_some(low - margin..high + margin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(line: &str, place: &str, mean: f64) -> Measured {
        Measured { line: line.into(), place: place.into(), mean, sd: 0.01 }
    }

    fn colours(svg: &str) -> usize {
        COLOURS.iter().filter(|RGBColor(r, g, b)| svg.contains(&format!("#{r:02X}{g:02X}{b:02X}"))).count()
    }

    #[test]
    fn each_line_has_its_colour_and_each_place_its_name() {
        let all = [("a", "0.1"), ("a", "0.2"), ("b", "0.2"), ("b", "0.4")].map(|(l, p)| measured(l, p, 0.5));
        let svg = over_places(&all, "ssl_weight", "NDCG@10").unwrap().unwrap();
        assert_eq!(colours(&svg), 2);
        for part in ["0.1\n", "0.2\n", "0.4\n", "ssl_weight", "NDCG@10"] {
            assert!(svg.contains(part), "{part:?} is not in {svg}");
        }
        assert_eq!(over_places(&all[..1], "", "").unwrap(), None);
    }

    #[test]
    fn seeds_of_one_name_share_a_colour() {
        let line = |name: &str| (name.to_string(), vec![(1.0, 0.1), (2.0, 0.2), (3.0, 0.15)]);
        let frame = Frame { size: (640, 360), y: Some("NDCG@20"), legend: true };
        let svg = over_epochs(&[line("sqn"), line("sqn"), line("snqn")], frame).unwrap().unwrap();
        assert_eq!((colours(&svg), svg.matches("<polyline").count() >= 3), (2, true));
        assert_eq!(over_epochs(&[("none".into(), Vec::new())], frame).unwrap(), None);
    }
}
