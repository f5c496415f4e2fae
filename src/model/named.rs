//! Enums whose variants have names.

/// Defines an enum with a list of all its variants and a name for each.
macro_rules! named {
    ($(#[$of_type:meta])* pub enum $Type:ident { $($(#[$of_variant:meta])* $Variant:ident = $name:literal,)+ }) => {
        $(#[$of_type])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $Type { $($(#[$of_variant])* $Variant,)+ }

        impl $Type {
            pub const ALL: [$Type; [$($Type::$Variant),+].len()] = [$($Type::$Variant),+];

            /// Returns the name as labels have it.
            pub fn name(self) -> &'static str {
                match self { $($Type::$Variant => $name),+ }
            }

            pub fn of_name(name: &str) -> Option<$Type> {
                match name { $($name => Some($Type::$Variant),)+ _ => None }
            }
        }
    };
}

pub(crate) use named;
